//! The common parts of all charts: a frame with a title, a text alternative, and labels.

use super::axis::Axis;
use crate::Unit;
use maud::{Markup, Render, html};
use std::fmt::Write;

/// Width of a chart in its own units, which are pixels on a phone.
pub(super) const WIDTH: f64 = 340.0;
/// Maximum of ticks along the width of a chart.
pub(super) const TICKS: usize = 5;

/// A position in a chart, with one decimal.
pub(super) struct Px(pub(super) f64);

impl Render for Px {
    fn render_to(&self, page: &mut String) {
        let place = if self.0.is_finite() { self.0 } else { 0.0 };
        // Writing to a string does not fail.
        let _ = write!(page, "{:.1}", place.clamp(-1e4, 1e4));
    }
}

/// A chart in its frame.
pub(super) struct Chart {
    /// Its id within the page.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// How to read it: one visible sentence.
    pub(super) reading: Markup,
    /// What it shows, as a text alternative.
    pub(super) description: String,
    pub(super) height: f64,
    pub(super) drawing: Markup,
}

impl Render for Chart {
    fn render(&self) -> Markup {
        let (title, description) = (format!("{}-title", self.id), format!("{}-text", self.id));
        html! {
            figure.chart id=(self.id) {
                p.chart-title { (self.title) }
                svg role="img" aria-labelledby=(format!("{title} {description}"))
                    viewBox=(format!("0 0 {WIDTH} {}", self.height.ceil())) {
                    title id=(title) { (self.title) }
                    desc id=(description) { (self.description) }
                    (self.drawing)
                }
                figcaption.reading { (self.reading) }
            }
        }
    }
}

/// Text in a chart.
pub(super) fn lettering(x: f64, y: f64, class: &str, words: impl Render) -> Markup {
    html! { text x=(Px(x)) y=(Px(y)) class=(class) { (words) } }
}

/// A straight line.
pub(super) fn line(from: (f64, f64), to: (f64, f64), class: &str) -> Markup {
    html! {
        line x1=(Px(from.0)) y1=(Px(from.1)) x2=(Px(to.0)) y2=(Px(to.1)) class=(class) {}
    }
}

/// The ticks of an axis below a drawing, with lines through it, and the axis title.
pub(super) fn below(axis: &Axis, unit: Unit, (top, bottom): (f64, f64), name: &str) -> Markup {
    let name = if axis.is_log() {
        format!("{name}, logarithmic scale")
    } else {
        name.to_owned()
    };
    html! {
        @for (x, tick) in axis.ticks(unit, TICKS) {
            (line((x, top), (x, bottom), "grid"))
            (lettering(x.clamp(16.0, WIDTH - 16.0), bottom + 13.0, "tick mid", &tick))
        }
        (lettering(WIDTH / 2.0, bottom + 28.0, "name mid", name))
    }
}
