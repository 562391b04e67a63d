//! The page of a comparison: whole, valid, true to its numbers, safe against what
//! names may hold, and readable at every width, in the dark and on paper.

use crate::support::browser::{self, Browser};
use crate::support::{repo, tool};
use scraper::{Html, Selector};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use wrun_compare::Results;

/// A comparison with every measure, policy and fault, doubts and missing floors.
fn sample() -> Value {
    let text = fs::read_to_string(repo("tests/data/compare.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn page(results: &Value) -> String {
    let results: Results = serde_json::from_value(results.clone()).unwrap();
    results.to_html()
}

fn select(document: &Html, selector: &str) -> Vec<String> {
    let selector = Selector::parse(selector).unwrap();
    let texts = document.select(&selector);
    // Numbers and their units are kept on one line by a space of another kind.
    texts
        .map(|element| element.text().collect::<String>().replace('\u{a0}', " "))
        .collect()
}

/// Asserts what holds for every page, whatever is in it.
fn assert_sound(name: &str, html: &str) -> Html {
    let document = Html::parse_document(html);
    assert!(document.errors.is_empty(), "{name}: {:?}", document.errors);
    let mut ids = BTreeSet::new();
    let (mut targets, mut described) = (Vec::new(), Vec::new());
    for element in document.select(&Selector::parse("*").unwrap()) {
        let element = element.value();
        for (attribute, value) in element.attrs() {
            match attribute {
                "id" => assert!(ids.insert(value.to_owned()), "{name}: two of #{value}"),
                "href" => targets.push(value.strip_prefix('#').expect(value).to_owned()),
                "aria-labelledby" => described.extend(value.split(' ').map(str::to_owned)),
                "xmlns" => {}
                _ => {
                    let loads = ["src", "srcset", "data", "action", "background", "poster"];
                    assert!(!loads.contains(&attribute), "{name}: {attribute}={value}");
                    assert!(!attribute.starts_with("on"), "{name}: {attribute}={value}");
                    assert!(!value.contains("//"), "{name}: {attribute}={value}");
                    for bad in ["NaN", "inf"] {
                        assert!(!value.contains(bad), "{name}: {attribute}={value}");
                    }
                }
            }
        }
        assert!(
            !["script", "link", "img", "iframe", "object", "base"].contains(&element.name()),
            "{name}: a {} in the page",
            element.name()
        );
    }
    for target in targets.iter().chain(&described) {
        assert!(ids.contains(target), "{name}: no #{target}");
    }
    let style = select(&document, "style").concat();
    assert!(
        !style.contains("url(") && !style.contains("@import") && !style.contains("//"),
        "{name}: the style loads something"
    );
    let charts = select(&document, "svg").len();
    for part in ["svg[role=img] > title", "svg[role=img] > desc"] {
        let texts = select(&document, part);
        assert_eq!(texts.len(), charts, "{name}: {part}");
        assert!(texts.iter().all(|text| !text.trim().is_empty()), "{name}");
    }
    let text = select(&document, "body").concat();
    let words = text.split(|c: char| !c.is_alphanumeric());
    for word in words {
        assert!(
            !["NaN", "inf", "None", "Some"].contains(&word),
            "{name}: {word}"
        );
    }
    assert!(select(&document, "h1").len() == 1, "{name}");
    document
}

#[test]
fn the_page_is_whole_and_valid() {
    let sample = sample();
    let document = assert_sound("sample", &page(&sample));
    let commands: BTreeSet<String> = select(&document, "code.command").into_iter().collect();
    for rows in ["cost", "isolation"] {
        for row in sample[rows].as_array().unwrap() {
            let command = row["command"].as_str().unwrap();
            assert!(commands.contains(command), "{command} is not in the page");
        }
    }
    assert!(commands.contains(sample["command"].as_str().unwrap()));
    let text = select(&document, "body").concat();
    for row in sample["cost"].as_array().unwrap() {
        for doubt in row["doubts"].as_array().unwrap() {
            assert!(text.contains(doubt.as_str().unwrap()), "{doubt}");
        }
        if let Some(floor) = row["floor"]["name"].as_str() {
            assert!(text.contains(floor), "{floor}");
        }
    }
    for row in sample["isolation"].as_array().unwrap() {
        for said in ["stopped_by", "detail", "why"] {
            if let Some(said) = row["finding"][said].as_str() {
                assert!(text.contains(said), "{said}");
            }
        }
    }
    for layer in sample["environment"]["jail"]["layers"].as_array().unwrap() {
        assert!(text.contains(layer["detail"].as_str().unwrap()), "{layer}");
    }
    assert_eq!(
        select(&document, "svg").len(),
        9,
        "a chart for each kind of number"
    );
    assert_eq!(
        select(&document, ".numbers tbody tr").len(),
        sample["cost"].as_array().unwrap().len()
    );
    assert_eq!(
        select(&document, ".matrix td").len(),
        sample["isolation"].as_array().unwrap().len()
    );
}

/// The two choices, as the page describes them: for strangers and for one's own code.
fn choices(results: &Value) -> (String, String) {
    let document = assert_sound("choices", &page(results));
    let mut takes = select(&document, ".take").into_iter();
    (takes.next().unwrap(), takes.next().unwrap())
}

/// Changes every row of a list.
fn each(results: &mut Value, list: &str, change: impl Fn(&mut Value)) {
    results[list]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .for_each(change);
}

/// Each mode's rows as the other's.
fn swap_modes(results: &mut Value, list: &str) {
    each(results, list, |row| {
        let other = if row["mode"] == "thread" {
            "process"
        } else {
            "thread"
        };
        row["mode"] = json!(other);
    });
}

#[test]
fn the_answer_is_made_of_the_numbers() {
    let document = assert_sound("sample", &page(&sample()));
    assert_eq!(
        choices(&sample()),
        ("Process mode".to_owned(), "Thread mode".to_owned())
    );
    let answers = select(&document, ".answer").join("\n");
    let median = |mode: &str, policy: &str| {
        let sample = sample();
        let rows = sample["cost"].as_array().unwrap();
        let row = rows
            .iter()
            .find(|row| row["measure"] == "warm" && row["mode"] == mode && row["policy"] == policy);
        row.unwrap()["value"]["p50"].as_f64().unwrap()
    };
    let (thread, spare) = (median("thread", "instance"), median("process", "spare"));
    for said in [
        format!("{:.0} µs longer", (spare - thread) / 1e3),
        format!("{:.1} times as long", spare / thread),
        format!(
            "tasks of {:.2} ms and more pay less than 5 %",
            (spare - thread) / 0.05 / 1e6
        ),
        "process mode held 18 and thread mode 6".to_owned(),
        "a segfault, an abort, an out-of-memory kill and sending the runner a signal ended the \
         whole program"
            .to_owned(),
    ] {
        assert!(answers.contains(&said), "{said}\nis not in\n{answers}");
    }

    let mut swapped = sample();
    swap_modes(&mut swapped, "isolation");
    assert_eq!(
        choices(&swapped).0,
        "Thread mode",
        "the mode that contains more"
    );

    let mut cheap = sample();
    let instance = cheap["cost"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["measure"] == "warm");
    let value = instance.unwrap()["value"].clone();
    each(&mut cheap, "cost", |row| row["value"] = value.clone());
    assert!(
        choices(&cheap).1.starts_with("Either"),
        "no difference in cost"
    );

    let mut equal = sample();
    each(&mut equal, "isolation", |row| {
        if row["finding"]["kind"] == "measured" {
            row["finding"]["held"] = json!(true);
        }
    });
    assert_eq!(choices(&equal).0, "Not decided by these faults");

    let mut leaky = sample();
    each(&mut leaky, "isolation", |row| {
        if row["fault"] == "trap" && row["mode"] == "thread" {
            row["finding"]["held"] = json!(false);
            row["finding"]["siblings_lost"] = json!(2);
        }
    });
    assert_eq!(choices(&leaky).1, "Process mode", "a plain bug gets out");

    let mut holed = sample();
    each(&mut holed, "isolation", |row| {
        if row["fault"] == "connect" {
            row["finding"]["held"] = json!(false);
        }
    });
    let text = select(&assert_sound("holed", &page(&holed)), ".answer").concat();
    assert!(
        text.contains("But in process mode, nothing kept code"),
        "{text}"
    );
    assert!(text.contains("before that is mended"), "{text}");

    let mut unknown = sample();
    unknown["isolation"] = json!([]);
    assert_eq!(choices(&unknown).0, "Not answered here");
    unknown["cost"] = json!([]);
    assert_eq!(choices(&unknown).1, "Not answered here");
}

#[test]
fn a_task_that_was_not_compared_has_a_page_without_numbers() {
    let verdicts = [
        json!({"kind": "unfit", "mode": null, "why": "it traps: unreachable", "help": "--dir ."}),
        json!({"kind": "unfit", "mode": "process", "why": "it is refused a file", "help": null}),
        json!({"kind": "differs", "thread": "exits with 3", "process": "completes"}),
    ];
    for verdict in verdicts {
        let mut results = sample();
        results["verdict"] = verdict.clone();
        let document = assert_sound("verdict", &page(&results));
        let text = select(&document, "body").concat();
        assert!(text.contains("Not compared"), "{text}");
        for said in ["why", "help", "thread", "process"] {
            if let Some(said) = verdict[said].as_str() {
                assert!(text.contains(said), "{said}");
            }
        }
        assert!(
            select(&document, "svg, table, .take").is_empty(),
            "{verdict}"
        );
    }
}

#[test]
fn numbers_of_any_size_and_lists_of_any_length_have_a_page() {
    let value = |values: &[f64]| {
        let of = |at: usize| {
            values
                .get(at.min(values.len().saturating_sub(1)))
                .copied()
                .unwrap_or(0.0)
        };
        json!({
            "min": of(0), "p10": of(0), "p50": of(values.len() / 2), "p90": of(usize::MAX),
            "p99": of(usize::MAX), "max": of(usize::MAX), "outliers": 0, "values": values,
        })
    };
    let huge = f64::MAX;
    let many: Vec<f64> = (0..20_000).map(f64::from).collect();
    let sets: [&[f64]; 10] = [
        &[],
        &[0.0],
        &[7.0],
        &[0.0, 0.0, 5.0],
        &[huge],
        &[-huge, huge],
        &[f64::MIN_POSITIVE, 1.0, huge],
        &[-1.0, 2.0],
        &[1e-9, 2e-9],
        &many,
    ];
    for values in sets {
        let name = format!("{:?}", values.get(..3.min(values.len())));
        let mut results = sample();
        each(&mut results, "cost", |row| {
            row["value"] = value(values);
            if !row["floor"].is_null() {
                row["floor"]["value"] = value(values);
                row["floor"]["ratio"] = value(values);
            }
        });
        let html = page(&results);
        assert_sound(&name, &html);
        assert!(html.len() < 2 << 20, "{name}: {} bytes", html.len());
        // Against numbers of another kind, in the other mode.
        each(&mut results, "cost", |row| {
            if row["mode"] == "process" {
                row["value"] = value(&[3.0, 4.0]);
            }
        });
        assert_sound(&name, &page(&results));
    }

    for list in ["cost", "isolation", "notes"] {
        let mut results = sample();
        results[list] = json!([]);
        assert_sound(list, &page(&results));
        let mut results = sample();
        let rows = results[list].as_array_mut().unwrap();
        rows.extend(rows.clone());
        results["notes"] = json!(vec!["said again and again"; 40]);
        assert_sound(list, &page(&results));
        // Each row alone, as after an interruption.
        for row in sample()[list].as_array().unwrap() {
            let mut results = sample();
            (results["cost"], results["isolation"]) = (json!([]), json!([]));
            results[list] = json!([row]);
            results["complete"] = json!(false);
            let document = assert_sound(list, &page(&results));
            assert!(select(&document, "body").concat().contains("Not complete"));
        }
    }

    let mut bare = sample();
    each(&mut bare, "cost", |row| {
        row["floor"] = Value::Null;
        row["policy"] = Value::Null;
        row["at"] = json!(u64::MAX);
    });
    each(&mut bare, "isolation", |row| {
        row["finding"] = json!({"kind": "not-measured", "why": "there is no fork here"});
    });
    bare["environment"]["jail"] = Value::Null;
    bare["environment"]["commit"] = Value::Null;
    assert_sound("bare", &page(&bare));
    bare["environment"]["jail"] = json!({"layers": []});
    assert_sound("no layers", &page(&bare));
}

/// Every string of the results that may hold anything.
fn foreign(results: &mut Value, change: &dyn Fn(&mut Value)) {
    for key in ["name", "shape", "digest"] {
        change(&mut results["subject"][key]);
    }
    results["subject"]["args"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .for_each(change);
    for key in [
        "date",
        "wrun",
        "commit",
        "wasmtime",
        "kernel",
        "architecture",
        "cpu",
    ] {
        change(&mut results["environment"][key]);
    }
    let layers = results["environment"]["jail"]["layers"]
        .as_array_mut()
        .unwrap();
    layers
        .iter_mut()
        .for_each(|layer| change(&mut layer["detail"]));
    change(&mut results["command"]);
    results["notes"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .for_each(change);
    each(results, "cost", |row| {
        change(&mut row["command"]);
        row["doubts"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .for_each(change);
        if !row["floor"].is_null() {
            change(&mut row["floor"]["name"]);
        }
    });
    each(results, "isolation", |row| {
        change(&mut row["command"]);
        for key in ["stopped_by", "detail", "why"] {
            if row["finding"][key].is_string() {
                change(&mut row["finding"][key]);
            }
        }
    });
}

#[test]
fn names_with_markup_are_text() {
    let shape = |text: &str| -> Vec<String> {
        let mut results = sample();
        foreign(&mut results, &|string| *string = json!(text));
        let document = assert_sound(text, &page(&results));
        assert!(!text.is_ascii() || select(&document, "h1").concat().contains(text));
        let all = Selector::parse("*").unwrap();
        let elements = document.select(&all).map(|element| element.value());
        elements
            .map(|element| {
                let names: BTreeSet<&str> = element.attrs().map(|(name, _)| name).collect();
                format!("{} {names:?}", element.name())
            })
            .collect()
    };
    let plain = shape("plain");
    for hostile in [
        "<script>alert(1)</script>",
        "</title></style></svg></code><img src=x onerror=alert(1)>",
        "\" onmouseover=\"alert(1)\" x='",
        "--><!-- ]]> <![CDATA[ &lt;b&gt; &#0;",
        "\0\u{1}\u{202e}exe.gpj\u{feff}\u{ffff}\u{1f600}\r\n",
        &"w".repeat(5000),
    ] {
        assert_eq!(shape(hostile), plain, "{hostile:?} changes the page");
    }
}

/// What only a browser can tell, evaluated in the open page.
const FACTS: &str = r#"(() => {
  const wrong = [], root = document.documentElement;
  const name = e => `${e.tagName} ${e.getAttribute('class') || ''} "${e.textContent.trim().slice(0, 40)}"`;
  if (root.scrollWidth > root.clientWidth) wrong.push(`the page is ${root.scrollWidth} wide`);
  const rgb = colour => (colour.match(/[\d.]+/g) || []).map(Number);
  const light = colour => {
    const [r, g, b] = rgb(colour).map(c => (c /= 255) <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const under = e => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (rgb(colour).length < 4 || rgb(colour)[3] > 0) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  let texts = 0;
  for (const e of document.body.querySelectorAll('*')) {
    const own = [...e.childNodes].filter(n => n.nodeType === 3 && n.data.trim());
    if (!own.length || ['title', 'desc'].includes(e.tagName)) continue;
    const range = document.createRange();
    range.selectNodeContents(e);
    const box = range.getBoundingClientRect();
    if (!box.width || e.closest('.table caption')) continue;
    texts++;
    if (box.right > root.clientWidth + .5 || box.left < -.5) wrong.push(`cut off: ${name(e)}`);
    const style = getComputedStyle(e);
    const ink = e instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(ink), light(under(e))].sort((a, b) => b - a);
    if ((a + .05) / (b + .05) < 4.5) wrong.push(`pale: ${name(e)} ${ink} on ${under(e)}`);
    if (parseFloat(style.fontSize) < 10) wrong.push(`small: ${name(e)}`);
  }
  for (const svg of document.querySelectorAll('svg')) {
    const frame = svg.getBoundingClientRect();
    if (frame.width < 200 || frame.height < 80) wrong.push(`a chart of ${frame.width} x ${frame.height}`);
    if (svg.querySelectorAll('path, rect, line, circle').length < 3) wrong.push('an empty chart');
    const boxes = [...svg.querySelectorAll('text')].map(e => [e, e.getBoundingClientRect()]);
    for (const [at, [e, a]] of boxes.entries()) {
      if (a.right > frame.right + 12 || a.left < frame.left - 2) wrong.push(`out of its chart: ${name(e)}`);
      for (const [f, b] of boxes.slice(at + 1)) {
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (wide > 1 && high > 4) wrong.push(`one over the other: ${name(e)}, ${name(f)}`);
      }
    }
  }
  return { wrong: wrong.slice(0, 20), texts, width: root.clientWidth, back: getComputedStyle(document.body).backgroundColor,
           charts: document.querySelectorAll('svg').length };
})()"#;

/// Opens what is folded.
const UNFOLD: &str = "document.querySelectorAll('details').forEach(d => d.open = true)";

#[test]
fn a_browser_shows_the_page_at_every_width_dark_and_on_paper() {
    let Some(program) = browser::find() else {
        let why = "there is no Chromium: WRUN_CHROMIUM names one; Debian's package is chromium";
        return tool::missing("chromium", why);
    };
    let folder = tempfile::tempdir().unwrap();
    let mut hostile = sample();
    foreign(&mut hostile, &|string| {
        *string = json!(format!("<script>alert(1)</script>{}", "w".repeat(300)));
    });
    let mut unfit = sample();
    unfit["verdict"] = json!({"kind": "unfit", "mode": null, "why": "it traps", "help": null});
    let browser = Browser::start(&program);
    let mut wrong = Vec::new();
    for (name, results, charts) in [
        ("sample", sample(), 9),
        ("hostile", hostile, 9),
        ("unfit", unfit, 0),
    ] {
        let path = folder.path().join(format!("{name}.html"));
        fs::write(&path, page(&results)).unwrap();
        let mut backs = BTreeSet::new();
        let screens = [360, 768, 1280]
            .into_iter()
            .flat_map(|width| [(width, "light", "screen"), (width, "dark", "screen")]);
        // What margins leave of A5 and A4.
        let papers = [(490, "dark", "print"), (700, "dark", "print")];
        for (width, scheme, medium) in screens.chain(papers) {
            browser.look(width, scheme, medium);
            browser.open(&path);
            for unfolded in [false, true] {
                if unfolded {
                    browser.evaluate(UNFOLD);
                }
                let facts = browser.evaluate(FACTS);
                assert_eq!(facts["width"], width, "{name}: {facts}");
                assert_eq!(facts["charts"], charts, "{name}: {facts}");
                assert!(facts["texts"].as_u64() > Some(20), "{name}: {facts}");
                backs.insert((medium, facts["back"].to_string()));
                for what in facts["wrong"].as_array().unwrap() {
                    wrong.push(format!(
                        "{name}, {width} {scheme} {medium}, {unfolded}: {what}"
                    ));
                }
            }
        }
        assert_eq!(
            backs.len(),
            3,
            "light, dark and paper are told apart: {backs:?}"
        );
        // On paper nothing is folded away.
        browser.look(768, "light", "print");
        browser.open(&path);
        let folded = browser.evaluate(
            "[...document.querySelectorAll('details code')].filter(e => !e.checkVisibility()).length",
        );
        assert_eq!(folded, 0, "{name}: commands that paper does not show");
        let paper = json!({"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": true});
        let pdf = browser.call("Page.printToPDF", paper);
        let pdf = pdf["data"].as_str().unwrap();
        assert!(
            pdf.starts_with("JVBER") && pdf.len() > 20_000,
            "{name}: {}",
            pdf.len()
        );
        if let Some(folder) = std::env::var_os("WRUN_PAGES") {
            fs::copy(
                &path,
                std::path::Path::new(&folder).join(format!("{name}.html")),
            )
            .unwrap();
        }
    }
    assert!(
        wrong.is_empty(),
        "{} things are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    let complaints = browser.complaints();
    assert!(
        complaints.is_empty(),
        "the browser complains: {complaints:#?}"
    );
}
