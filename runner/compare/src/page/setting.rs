//! The machine, its walls, and what was compared.

use super::text::{Text, command};
use super::words::list;
use crate::{Results, number::size};
use maud::{Markup, html};
use wrun::{LayerReport, LayerState};

/// What was compared, in a list.
pub(super) fn subject(results: &Results) -> Markup {
    let subject = &results.subject;
    html! {
        dl.facts {
            (fact("Task", html! { (Text(&subject.name)) ", " (size(subject.bytes)) }))
            @if !subject.shape.is_empty() { (fact("Shape", html! { (Text(&subject.shape)) })) }
            @if !subject.args.is_empty() {
                (fact("Arguments", html! {
                    @for arg in &subject.args { code { (Text(arg)) } " " }
                }))
            }
            @if let Some(request) = &subject.request {
                (fact("Request", html! {
                    code { (Text(request)) }
                    @if let Some(status) = subject.status { ", answered with " (status) }
                }))
            }
            (fact("Input and output", html! {
                (size(subject.input_bytes)) " in, " (size(subject.output_bytes)) " out"
            }))
            @if let Some(peak) = subject.peak_memory_bytes {
                (fact("Its own memory, at most", html! { (size(peak)) }))
            }
            @if !subject.digest.is_empty() {
                (fact("BLAKE3 of the file", html! { code { (Text(&subject.digest)) } }))
            }
            (fact("The whole page again", command(&results.command)))
        }
    }
}

/// Where and when it was measured, in a list.
pub(super) fn environment(results: &Results) -> Markup {
    let at = &results.environment;
    let wrun = match &at.commit {
        Some(commit) => format!("{}, commit {commit}", at.wrun),
        None => format!("{}, commit not known", at.wrun),
    };
    html! {
        dl.facts {
            (fact("Begun", html! { (Text(&at.date)) }))
            (fact("Processor", html! { (Text(&at.cpu)) ", " (at.processors) " usable" }))
            (fact("Memory", html! { (size(at.memory_bytes)) }))
            (fact("Kernel", html! { (Text(&at.kernel)) ", " (Text(&at.architecture)) }))
            (fact("wrun", html! { (Text(&wrun)) }))
            (fact("wasmtime", html! { (Text(&at.wasmtime)) }))
            (fact("Load when it began", html! { (load(at.load)) " wanted to run" }))
            (fact("User", html! { @if at.root { "root" } @else { "not root" } }))
        }
    }
}

fn load(load: f64) -> String {
    if load.is_finite() {
        format!("{load:.2}")
    } else {
        "–".to_owned()
    }
}

fn fact(name: &str, value: Markup) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

/// The walls around a worker, as reported.
pub(super) fn jail(results: &Results) -> Markup {
    let at = &results.environment;
    let layers = at.jail.as_ref().map(|jail| jail.layers.as_slice());
    html! {
        p {
            "Process mode was asked for a jail that is " b { (at.jail_mode.name()) } ". "
            @match layers {
                None => "No worker came to say which walls it has.",
                Some([]) => "There are no walls but those of a process.",
                Some(layers) => (found(layers)),
            }
        }
        @if let Some(layers) = layers.filter(|layers| !layers.is_empty()) {
            ul.layers {
                @for report in layers {
                    @let (class, sign) = match report.state {
                        LayerState::Enforced => ("held", "✓"),
                        LayerState::Partial => ("partial", "◐"),
                        _ => ("lost", "✕"),
                    };
                    li class=(class) {
                        span.sign aria-hidden="true" { (sign) } " "
                        b { (report.layer.name()) } " " span.state { (report.state.name()) }
                        small { (Text(&report.detail)) }
                    }
                }
            }
        }
    }
}

/// How many are in place, and which are not.
fn found(layers: &[LayerReport]) -> String {
    let not_whole: Vec<String> = layers
        .iter()
        .filter(|report| report.state != LayerState::Enforced)
        .map(|report| format!("{} is {}", report.layer, report.state.name()))
        .collect();
    let stand = layers.len() - not_whole.len();
    if not_whole.is_empty() {
        format!("All {stand} walls stand.")
    } else {
        format!(
            "{stand} of {} walls stand; {}.",
            layers.len(),
            list(&not_whole)
        )
    }
}
