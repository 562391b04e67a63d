use super::*;
use crate::input::{Input, Payload};
use std::fs;

fn open_all(source: Source, reader: Reader) -> Vec<Result<Input, Error>> {
    source.open(reader, Reading::default()).collect()
}

/// Names and contents; a message instead of the content of what cannot be used.
fn all(source: Source, reader: Reader) -> Vec<(String, String)> {
    let shown = |input: Result<Input, Error>| match input {
        Err(error) => ("error".to_owned(), error.to_string()),
        Ok(input) => {
            let content = match &input.payload {
                Ok(Payload::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
                Ok(Payload::File(file)) => format!("{} bytes", file.len),
                Err(why) => why.to_string(),
            };
            let row = input
                .carried
                .map_or_else(String::new, |row| row.to_string());
            (input.name, content + &row)
        }
    };
    open_all(source, reader).into_iter().map(shown).collect()
}

fn contents(source: Source, reader: Reader) -> Vec<String> {
    all(source, reader)
        .into_iter()
        .map(|(_, content)| content)
        .collect()
}

fn file(text: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("file");
    fs::write(&path, text).expect("written");
    (scratch, path)
}

fn short() -> Reader {
    Reader {
        max_record: 10,
        ..Reader::default()
    }
}

#[test]
fn lines_have_a_maximum() {
    let (_scratch, path) = file(b"one\n\nthis is too long\n\xff\nlast");
    let lines = contents(Source::Lines(vec![path.clone(), path]), short());
    let too_long = "the record has 16 bytes, more than the maximum of 10";
    let once = ["one", "", too_long, "\u{fffd}", "last"];
    assert_eq!(lines, [once, once].concat());
}

#[test]
fn fields_of_json_are_inputs() {
    let text =
        "{\"a\": \"x\\ny\", \"b\": [1, {\"c\": 2.5}]}\n\n{\"a\": {\"d\": null}}\n[1]\n{\"a\":\n";
    let (_scratch, path) = file(text);
    let read = |field: Option<&str>| {
        let field = field.map(str::to_owned);
        let files = vec![path.clone()];
        contents(Source::JsonLines { files, field }, Reader::default())
    };
    let of_a = read(Some("a"));
    assert_eq!(of_a[0], "x\ny{\"b\":[1,{\"c\":2.5}]}");
    assert_eq!(of_a[1], "{\"d\":null}{}");
    assert_eq!(of_a[2], "there is no field \"a\"");
    assert!(of_a[3].starts_with("the line is not JSON"), "{}", of_a[3]);
    assert_eq!(of_a.len(), 4);
    assert_eq!(read(Some("/b/1/c"))[0], "2.5{\"a\":\"x\\ny\",\"b\":[1,{}]}");
    assert_eq!(read(None)[2], "[1]");
}

#[test]
fn columns_are_inputs() {
    let text = "id,text,n\n1,\"a, \"\"b\"\"\nc\",2\n3,d\n4,,5\n";
    let (_scratch, path) = file(text);
    let read = |field: Option<&str>, reader| {
        let (files, delimiter) = (vec![path.clone()], b',');
        let field = field.map(str::to_owned);
        contents(
            Source::Rows {
                files,
                field,
                delimiter,
            },
            reader,
        )
    };
    let rows = read(Some("text"), Reader::default());
    assert_eq!(rows[0], "a, \"b\"\nc{\"id\":\"1\",\"n\":\"2\"}");
    assert_eq!(rows[1], "the row has 2 fields, and the first row 3");
    assert_eq!(rows[2], "{\"id\":\"4\",\"n\":\"5\"}");
    assert_eq!(rows.len(), 3);
    let whole = read(None, Reader::default());
    assert_eq!(whole[2], "{\"id\":\"4\",\"n\":\"5\",\"text\":\"\"}");
    let told = &read(Some("x"), Reader::default())[0];
    assert!(
        told.contains("no column \"x\": expected one of id, text, n"),
        "{told}"
    );
    let (_scratch, path) = file(format!("a,b\n1,\"{}", "x".repeat(1 << 20)));
    let (files, delimiter) = (vec![path], b',');
    let field = None;
    let rows = contents(
        Source::Rows {
            files,
            field,
            delimiter,
        },
        Reader {
            max_record: 5000,
            ..Reader::default()
        },
    );
    assert!(
        rows[0].contains("more than 5000 bytes") && rows.len() == 1,
        "{rows:?}"
    );
}

#[test]
fn a_split_file_is_all_there() {
    let mut text = String::new();
    for at in 0..500 {
        text += &"x".repeat(at * 7 % 90);
        text += "\n";
    }
    text += "the end";
    let (_scratch, path) = file(&text);
    for size in [1, 10, 64, 1000, 100_000] {
        let files = vec![path.clone()];
        let pieces = contents(Source::Split { files, size }, Reader::default());
        assert_eq!(pieces.concat(), text, "{size}");
        let (last, others) = pieces.split_last().expect("pieces");
        assert!(last.ends_with("the end"));
        for piece in others {
            let lines = piece.matches('\n').count();
            assert!(piece.ends_with('\n') && (lines == 1 || piece.len() as u64 <= size));
        }
    }
    let (_scratch, path) = file(format!("ab\n{}\ncd\n", "x".repeat(100)));
    let (files, size) = (vec![path.clone()], 4);
    let pieces = all(Source::Split { files, size }, short());
    let name = |at: u64| format!("{}@{at}", path.display());
    let too_long = "the record has 101 bytes, more than the maximum of 10";
    assert_eq!(pieces[1], (name(3), too_long.into()));
    assert_eq!(pieces[2], (name(104), "cd\n".into()));
}

#[test]
fn directories_are_walked_in_order() {
    let scratch = tempfile::tempdir().expect("a directory");
    let root = scratch.path();
    for name in ["b/2.txt", "b/10.txt", "a/z/1.txt", "c.txt", "out/d.txt"] {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, name).expect("written");
    }
    std::os::unix::fs::symlink("nowhere", root.join("broken")).expect("a link");
    std::os::unix::fs::symlink(".", root.join("loop")).expect("a link");
    let files = |paths: Vec<PathBuf>, list: Option<PathBuf>| {
        let results = vec![root.join("out")];
        let names = all(
            Source::Files {
                paths,
                list,
                results,
            },
            Reader::default(),
        );
        let root = format!("{}/", root.display());
        let short = names.into_iter().map(|(name, content)| {
            let is_file = content.ends_with(" bytes");
            (
                name.replace(&root, ""),
                if is_file { String::new() } else { content },
            )
        });
        short.collect::<Vec<_>>()
    };
    let found = files(vec![root.to_owned()], None);
    let names: Vec<_> = found.iter().map(|(name, _)| &**name).collect();
    let expected = ["a/z/1.txt", "b/10.txt", "b/2.txt", "broken", "c.txt"];
    assert_eq!(names, expected);
    assert!(found[3].1.contains("No such file"), "{found:?}");
    let found_there = files(vec![root.join("out/d.txt")], None);
    assert!(
        found_there[0].1.contains("results of this run"),
        "{found_there:?}"
    );
    let found = files(
        vec![root.join("*/*.txt"), root.join("gone"), root.join("*.gz")],
        None,
    );
    assert_eq!((&*found[0].0, &*found[1].0), ("b/10.txt", "b/2.txt"));
    // Patterns follow links, as those of a shell do.
    assert_eq!(found[2].0, "loop/c.txt");
    assert!(found[3].1.contains("results of this run"), "{found:?}");
    assert!(found[4].1.contains("cannot read"), "{found:?}");
    assert!(found[5].1.contains("no file matches"), "{found:?}");
    let list = root.join("c.txt");
    let text = format!("{0}/b\n\n{0}/c.txt\n{0}/gone", root.display());
    fs::write(&list, text).expect("written");
    let found = files(vec![], Some(list));
    let names: Vec<_> = found.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["b/10.txt", "b/2.txt", "c.txt", "gone"]);
}

#[test]
fn a_source_that_is_not_there_ends_the_batch() {
    let (_scratch, path) = file("x\n");
    let gone = path.with_file_name("gone");
    let inputs = open_all(
        Source::Lines(vec![path.clone(), gone, path]),
        Reader::default(),
    );
    assert_eq!(inputs.len(), 2);
    assert!(matches!(&inputs[1], Err(Error::Source { .. })));
}
