//! What the fuzz targets start from and what they found, through the functions
//! that they call.

use crate::support::repo;
use std::fs;

#[test]
fn no_input_of_the_corpus_panics() {
    for target in fs::read_dir(repo("fuzz/corpus")).expect("the corpus") {
        let target = target.expect("an entry").path();
        let name = target.file_name().and_then(|it| it.to_str());
        let check = match name.expect("UTF-8") {
            "frame" => wrun::fuzzing::frame,
            "handshake" => wrun::fuzzing::handshake,
            "http" => wrun::fuzzing::http,
            "loader" => wrun::fuzzing::loader,
            other => panic!("fuzz/corpus/{other} is not replayed by any test"),
        };
        let mut inputs = 0;
        for input in fs::read_dir(&target).expect("inputs") {
            let input = input.expect("an entry").path();
            // Shown only when the test fails.
            println!("{}", input.display());
            check(&fs::read(&input).expect("an input"));
            inputs += 1;
        }
        assert!(inputs > 0, "{} is empty", target.display());
    }
}
