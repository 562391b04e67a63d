//! SPEC.md has every promise that the benchmark checks and no other, and what it names
//! is there. Whether promises are kept is not measured here: that takes a machine at rest.

use crate::support::repo;
use std::collections::BTreeSet;
use std::fs;

#[path = "../runner/cli/benches/cost/spec.rs"]
mod judging;
#[path = "../runner/cli/benches/cost/promise.rs"]
mod promise;

use judging::{Files, Finding, Findings, Found, Verdict, chosen, weave};
use promise::{Bound, Check, SUBJECTS, bound_of, promises};

fn sources(folder: &str) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(repo(folder)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "rs") && !path.ends_with("promise.rs") {
            all += &fs::read_to_string(path).unwrap();
        }
    }
    all
}

#[test]
fn its_tables_are_the_promises() {
    let files = Files::below(&repo(""));
    let page = fs::read_to_string(&files.page).unwrap();
    let text = fs::read_to_string(&files.findings).unwrap();
    let findings = Findings::read(&files.findings).unwrap();
    let woven = weave(&page, &findings.tables()).unwrap();
    let same = "SPEC.md is not what the benchmark would write (--spec-update)";
    for (is, should) in page.lines().zip(woven.lines()) {
        assert_eq!(is, should, "{same}");
    }
    assert_eq!(page.len(), woven.len(), "{same}");
    for promise in promises() {
        let row = format!("\n| {} | {} | ", promise.id, promise.words);
        assert_eq!(page.matches(&row).count(), 1, "{row}");
        if findings.0.contains_key(promise.id) {
            let verdict = findings.verdict(promise);
            assert!(verdict.is_some(), "{} was checked otherwise", promise.id);
        }
    }
    // Nothing of promises that are gone.
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(all.as_object().unwrap().len(), findings.0.len());
}

#[test]
fn the_check_of_each_promise_exists() {
    let (rows, mut ids, mut checks) = (
        sources("runner/cli/benches/cost"),
        BTreeSet::new(),
        BTreeSet::new(),
    );
    for promise in promises() {
        assert!(ids.insert(promise.id), "{} twice", promise.id);
        let name = promise.check.name();
        assert!(checks.insert(name), "{name} twice");
        match promise.check {
            Check::Row { bound, .. } => {
                assert!(rows.contains(&format!("\"{name}\"")), "no row {name}");
                assert!(bound_of(name) == Some(bound), "{name}");
                assert!(bound.number() > 0.0, "{name}");
            }
            Check::Test { thorough, .. } => {
                let (file, test) = name.split_once("::").unwrap();
                let text = fs::read_to_string(repo(&format!("tests/{file}.rs"))).unwrap();
                let head = format!("#[test]\nfn {test}() {{\n");
                assert!(text.contains(&head), "no test {name}");
                if let Some((variable, _)) = thorough {
                    assert!(text.contains(variable), "{file} reads no {variable}");
                }
            }
        }
    }
    assert!(SUBJECTS.iter().all(|subject| !subject.promises.is_empty()));
    assert!(ids.len() > 30, "{} promises", ids.len());
}

#[test]
fn a_verdict_is_the_medians_and_the_edge_is_the_spreads() {
    use Bound::{AtLeast, AtMost};
    for (bound, median, p10, p90, verdict) in [
        (AtMost(2.0), 1.8, 1.7, 1.9, Verdict::Holds),
        (AtMost(2.0), 1.8, 1.7, 2.1, Verdict::HoldsAtItsEdge),
        (AtMost(2.0), 2.1, 1.9, 2.2, Verdict::MissesAtItsEdge),
        (AtMost(2.0), 2.1, 2.05, 2.2, Verdict::Misses),
        (AtLeast(0.7), 0.8, 0.75, 0.9, Verdict::Holds),
        (AtLeast(0.7), 0.8, 0.6, 0.9, Verdict::HoldsAtItsEdge),
        (AtLeast(0.7), 0.6, 0.5, 0.8, Verdict::MissesAtItsEdge),
        (AtLeast(0.7), 0.6, 0.5, 0.65, Verdict::Misses),
        // A value that is the same in every round is not an edge, even where it is the bound itself.
        (AtMost(1.0), 1.0, 1.0, 1.0, Verdict::Holds),
    ] {
        assert_eq!(Verdict::of(bound, median, p10, p90), verdict, "{median}");
    }
}

fn finding(found: Found) -> Finding {
    Finding {
        date: "2026-11-23".into(),
        machine: "a machine".into(),
        busy: false,
        quick: false,
        found,
    }
}

fn findings<const N: usize>(found: [(&str, Found); N]) -> Findings {
    let found = found.map(|(id, found)| (id.to_owned(), finding(found)));
    Findings(found.into())
}

#[test]
fn a_promise_that_held_and_clearly_misses_is_broken() {
    let ratio = |median: f64, spread: f64| Found::Ratio {
        median,
        p10: median - spread,
        p90: median + spread,
    };
    let test = |passed| Found::Test {
        passed,
        said: Vec::new(),
    };
    // T1 is at most 1.5, T2 at least 0.7, T3 a test.
    let before = findings([
        ("T1", ratio(1.4, 0.05)),
        ("T2", ratio(0.5, 0.1)),
        ("T3", test(true)),
    ]);
    for (now, broken) in [
        (
            findings([("T1", ratio(1.4, 0.05)), ("T3", test(true))]),
            vec![],
        ),
        // At its edge, and missing already.
        (
            findings([("T1", ratio(1.6, 0.3)), ("T2", ratio(0.4, 0.1))]),
            vec![],
        ),
        (
            findings([("T1", ratio(1.9, 0.3)), ("T3", test(true))]),
            vec!["T1"],
        ),
        (
            findings([("T1", ratio(1.9, 0.3)), ("T3", test(false))]),
            vec!["T1", "T3"],
        ),
        // Not measured.
        (findings([]), vec![]),
    ] {
        assert_eq!(before.broken(&now), broken);
    }
    let tables = before.tables();
    for row in [
        "| ≤ 1.5 | row `thread latency` | 1.40 (1.35..1.45) | 2026-11-23 | holds |\n",
        "| ≥ 0.7 | row `thread throughput` | 0.50 (0.40..0.60) | 2026-11-23 | misses |\n",
        "`leaks::ten_thousand_tasks_wait_at_once` | passes | 2026-11-23 | holds |\n",
        "| row `command hello, thread` |  |  | not measured |\n",
    ] {
        assert!(tables.contains(row), "{row}{tables}");
    }
    // What was found of one kind of check says nothing about another.
    let mixed = findings([("T1", test(true))]);
    assert!(mixed.verdict(chosen(&["T1".into()]).unwrap()[0]).is_none());
}

#[test]
fn findings_are_kept_and_those_of_old_promises_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let files = Files::below(folder.path());
    fs::create_dir(folder.path().join("docs")).unwrap();
    let held = Found::Ratio {
        median: 1.25,
        p10: 1.0,
        p90: 1.4,
    };
    let found = findings([("T1", held.clone()), ("Z99", held.clone())]);
    // Without the page nothing is written.
    assert!(files.write(&found).is_err());
    assert!(!files.findings.exists());
    let page = fs::read_to_string(repo("SPEC.md")).unwrap();
    for bad in [
        page.replace("<!-- Up to here. -->\n", ""),
        page.replace("<!-- From here: ", "<!-- "),
        format!("{page}{page}"),
        {
            let (before, after) = page.split_once("<!-- From here").unwrap();
            format!("<!-- Up to here. -->\n{before}<!-- From here{after}")
                .replace("\n<!-- Up to here. -->\n", "\n")
        },
    ] {
        fs::write(&files.page, &bad).unwrap();
        let error = format!("{:#}", files.write(&found).unwrap_err());
        assert!(
            error.contains("SPEC.md: ") && error.contains("here"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&files.page).unwrap(), bad);
        assert!(!files.findings.exists());
    }
    fs::write(&files.page, &page).unwrap();
    files.write(&found).unwrap();
    let read = Findings::read(&files.findings).unwrap();
    assert_eq!(read.0.len(), 1, "Z99 is not a promise");
    assert!(read.0["T1"].found == held);
    let text = fs::read_to_string(&files.page).unwrap();
    assert!(
        text.contains("| 1.25 (1.00..1.40) | 2026-11-23 | holds |"),
        "{text}"
    );
    let mut left: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["SPEC.md", "docs"]);
    for bad in ["", "{", "[]", "{\"T1\": {}}"] {
        fs::write(&files.findings, bad).unwrap();
        let error = format!("{:#}", Findings::read(&files.findings).err().unwrap());
        assert!(error.contains("spec.json: "), "{error}");
    }
}

#[test]
fn promises_are_selected_by_id_or_by_name() {
    let ids = |wanted: &[&str]| -> Vec<_> {
        let wanted: Vec<_> = wanted.iter().map(|&it| it.to_owned()).collect();
        chosen(&wanted).unwrap().iter().map(|it| it.id).collect()
    };
    assert_eq!(ids(&["p4", "T1"]), ["T1", "P4"]);
    assert_eq!(ids(&["port round trip"]), ["M1", "M2"]);
    assert_eq!(ids(&[]).len(), promises().count());
    let error = chosen(&["P".repeat(9)]).err().unwrap().to_string();
    assert_eq!(error, "no promise matches \"PPPPPPPPP\"");
}
