//! The page from its head to its end.

use super::answer::{self, Choice, Pair};
use super::text::Text;
use super::words::{self, Origin, counted};
use super::{faults, sections};
use crate::{Fault, Measure, Results, Verdict, number::times};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use wrun::Mode;

/// The page's style, for screens, phones and paper.
const STYLE: &str = include_str!("style.css");
/// What the page may do: use its own style, and nothing else.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";
/// Notes that are shown at once; the others unfold.
const NOTES: usize = 5;

impl Results {
    /// The results as one self-contained HTML page in UTF-8: it loads nothing, runs no
    /// script, and can be read on a phone, in dark mode and on paper. Strings of the
    /// results are always text in it.
    ///
    /// A task that could not be compared has a page that says so, without numbers.
    ///
    /// ```
    /// # fn page(results: &wrun_compare::Results) -> std::io::Result<()> {
    /// std::fs::write("compare.html", results.to_html())
    /// # }
    /// ```
    pub fn to_html(&self) -> String {
        let head = html! {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta name="color-scheme" content="light dark";
            meta name="referrer" content="no-referrer";
            meta http-equiv="Content-Security-Policy" content=(POLICY);
            title { (Text(&self.subject.name)) " in two modes, compared by wrun" }
            style { (PreEscaped(STYLE)) }
        };
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head { (head) }
                body {
                    main {
                        (opening(self))
                        @match &self.verdict {
                            Verdict::Comparable => (compared(self)),
                            Verdict::Unfit { mode, why, help } => {
                                (unfit(*mode, why, help.as_deref()))
                                (notes(self))
                            }
                            Verdict::Differs { thread, process } => {
                                (differs(thread, process))
                                (notes(self))
                            }
                        }
                        (sections::machine(self))
                    }
                }
            }
        };
        page.into_string()
    }
}

fn opening(results: &Results) -> Markup {
    html! {
        header {
            p.eyebrow {
                "wrun compare · " (Text(&results.environment.date)) " · " (Text(&results.environment.cpu))
            }
            h1 { span.name { (Text(&results.subject.name)) } " in two modes" }
            p.lede {
                "wrun runs a WebAssembly task in a sandbox, either "
                b.mode.thread { "on a thread" }
                " of the program that wants its result, or "
                b.mode.process { "in a process" }
                " of its own, behind walls that the kernel keeps. \
                 The task is the same file."
                @if results.verdict == Verdict::Comparable {
                    " This page says what those walls cost it and what they hold."
                }
            }
        }
    }
}

fn unfit(mode: Option<Mode>, why: &str, help: Option<&str>) -> Markup {
    html! {
        section.stop {
            h2 { "Not compared: the task does not do its work" }
            p {
                @match mode {
                    Some(mode) => { "In " (mode.name()) " mode: " }
                    None => "In both modes: ",
                }
                (Text(why))
            }
            @if let Some(help) = help { p { (Text(help)) } }
            p { "Nothing was measured: numbers of a task that fails say nothing about one that works." }
        }
    }
}

fn differs(thread: &str, process: &str) -> Markup {
    html! {
        section.stop {
            h2 { "Not compared: the task does something else in each mode" }
            dl.facts {
                div { dt { "On a thread" } dd { (Text(thread)) } }
                div { dt { "In a process" } dd { (Text(process)) } }
            }
            p { "Nothing was measured: two different results are not two prices of one." }
        }
    }
}

fn compared(results: &Results) -> Markup {
    html! {
        @if !results.complete {
            p.warning {
                b { "Not complete. " }
                "It ended before all that was asked for was measured; what is here was."
            }
        }
        div.answers {
            (choice(&answer::strangers(results)))
            (choice(&answer::own(results)))
            (price(results))
            (worth(results))
        }
        (notes(results))
        nav aria-label="On this page" {
            a href="#faults" { "Faults" } " "
            a href="#latency" { "Latency" } " "
            a href="#load" { "Throughput and messages" } " "
            a href="#memory" { "Memory and work" } " "
            a href="#machine" { "Walls and machine" }
        }
        (sections::isolation(results))
        (sections::latency(results))
        (sections::load(results))
        (sections::memory(results))
    }
}

fn choice(choice: &Choice) -> Markup {
    let class = choice.mode.map_or("open", words::class);
    html! {
        section class=(format!("answer {class}")) {
            h2 { (choice.subject) }
            p.take { (choice.take) }
            @for why in &choice.why { p { (why) } }
        }
    }
}

/// The cost of process mode: the default row of each mode, side by side.
fn price(results: &Results) -> Markup {
    let rows = [
        ("A task, all warm", Measure::Warm),
        ("First result", Measure::Cold),
        ("Tasks", Measure::Throughput),
        ("Memory of its own while it waits", Measure::Private),
        ("CPU time of the guest's code", Measure::Compute),
        ("CPU time", Measure::Cpu),
    ];
    let pairs: Vec<(String, Pair<'_>)> = rows
        .into_iter()
        .filter_map(|(name, measure)| {
            let pair = Pair::of(results, measure)?;
            let name = match pair.thread.at {
                Some(at) => format!("{name}, {at} at a time"),
                None => name.to_owned(),
            };
            Some((name, pair))
        })
        .collect();
    html! {
        section.answer {
            h2 { "What the walls cost" }
            @for said in answer::cost(results) { p { (said) } }
            @if !pairs.is_empty() {
                table.brief {
                    thead {
                        tr {
                            td {}
                            th scope="col" { span.mode.thread { "thread" } }
                            th scope="col" { span.mode.process { "process" } }
                            th scope="col" { "worse by" }
                        }
                    }
                    tbody {
                        @for (name, pair) in &pairs {
                            tr {
                                th scope="row" { (name) @if pair.is_doubted() { " (?)" } }
                                td { (pair.shown(Mode::Thread)) }
                                td { (pair.shown(Mode::Process)) }
                                td { (pair.times().map_or_else(|| "–".to_owned(), times)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The benefit of process mode: how many faults each mode contained.
fn worth(results: &Results) -> Markup {
    let faults = faults::of(results);
    html! {
        section.answer {
            h2 { "What they hold" }
            @if faults.is_empty() { p { "No fault was injected." } }
            @else {
                p { (held(results, Mode::Thread, &faults)) ", " (held(results, Mode::Process, &faults)) "." }
                @for origin in Origin::ALL {
                    @let mine = faults::of_origin(results, origin);
                    @if !mine.is_empty() {
                        dl.signs-of {
                            div.origin { dt { (origin.title()) } dd {} }
                            @for mode in [Mode::Thread, Mode::Process] {
                                @let tally = answer::tally(results, mode, &mine);
                                div {
                                    dt { span class=(format!("mode {}", words::class(mode))) { (mode.name()) } }
                                    dd {
                                        (faults::signs(results, mode, &mine))
                                        span { (tally.held) " of " (tally.measured) }
                                    }
                                }
                            }
                        }
                    }
                }
                p.reading {
                    "A sign for each fault: ✓ harmed only its own task, ✕ did more, – not measured."
                }
            }
        }
    }
}

/// How many faults a mode contained.
fn held(results: &Results, mode: Mode, faults: &[Fault]) -> Markup {
    let tally = answer::tally(results, mode, faults);
    let class = format!("mode {}", words::class(mode));
    html! {
        span class=(class) { (mode.name()) " mode" }
        " held " b { (tally.held) " of " (tally.measured) } " faults"
        @if tally.measured < faults.len() {
            " (" (faults.len() - tally.measured) " not measured)"
        }
    }
}

fn notes(results: &Results) -> Markup {
    let doubted = results
        .cost
        .iter()
        .filter(|row| !row.doubts.is_empty())
        .count();
    let doubted = match results.verdict {
        Verdict::Comparable => doubted,
        _ => 0,
    };
    let (shown, more) = results.notes.split_at(results.notes.len().min(NOTES));
    html! {
        @if doubted > 0 || !results.notes.is_empty() {
            aside.notes {
                h2 { "Read with care" }
                ul {
                    @if doubted > 0 {
                        li { (counted(doubted as u64, "number is", "numbers are")) " doubted, marked (?), with the reason." }
                    }
                    @for note in shown { li { (Text(note)) } }
                }
                @if !more.is_empty() {
                    details {
                        summary { (counted(more.len() as u64, "more note", "more notes")) }
                        ul { @for note in more { li { (Text(note)) } } }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Summary;

    fn sample() -> Results {
        let text = include_str!("../../../../tests/data/compare.json");
        serde_json::from_str(text).expect("the sample is as results are written")
    }

    /// Values that JSON cannot represent, but a program that makes results can.
    #[test]
    fn what_is_no_number_is_a_dash() {
        for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut results = sample();
            results.environment.load = odd;
            for row in &mut results.cost {
                let value = Summary {
                    min: odd,
                    p10: odd,
                    p50: odd,
                    p90: odd,
                    p99: odd,
                    max: odd,
                    outliers: 1,
                    spread: Some(odd),
                    values: vec![odd, 1.0, odd],
                };
                if let Some(floor) = &mut row.floor {
                    (floor.value, floor.ratio) = (value.clone(), value.clone());
                }
                row.value = value;
            }
            let page = results.to_html();
            let mut words = page.split(|c: char| !c.is_alphanumeric());
            assert!(words.all(|word| !["NaN", "inf"].contains(&word)), "{odd}");
        }
    }

    #[test]
    fn what_was_measured_once_has_no_spread() {
        let mut results = sample();
        let spread = |page: &str| page.matches(", spread ").count();
        assert!(spread(&results.to_html()) > 0);
        for row in &mut results.cost {
            row.value = Summary::of([row.value.p50]);
        }
        let page = results.to_html();
        assert_eq!(spread(&page), 0);
        assert!(page.contains("measured once") && page.contains("1 run"));
        for drawn in ["class=\"whisker", "class=\"box"] {
            assert!(!page.contains(drawn), "{drawn}");
        }
    }

    #[test]
    fn a_page_is_the_same_whenever_it_is_made() {
        assert_eq!(sample().to_html(), sample().to_html());
    }
}
