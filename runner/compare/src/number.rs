//! Numbers for people: three digits and a unit.

use serde::{Deserialize, Serialize};

/// Between a number and its unit: they stay on one line.
pub(super) const GAP: char = '\u{a0}';

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Unit {
    /// Nanoseconds; less is better.
    Nanoseconds,
    /// Tasks a second; more is better.
    PerSecond,
    /// Bytes a second; more is better.
    BytesPerSecond,
    /// Bytes; less is better.
    Bytes,
    /// A number of things; less is better.
    Count,
}

impl Unit {
    /// A number of it for people: three digits and a unit, such as `1.27 ms` or
    /// `5.2 GiB/s`, with a space that does not break.
    pub fn show(self, value: f64) -> String {
        quantity(value, self)
    }

    /// Whether more is better.
    pub fn is_rate(self) -> bool {
        matches!(self, Unit::PerSecond | Unit::BytesPerSecond)
    }
}

/// A quantity, such as `1.27 ms` or `5.2 GiB/s`; a dash for what is no number.
pub(super) fn quantity(value: f64, unit: Unit) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    match unit {
        Unit::Nanoseconds => time(value),
        Unit::Bytes => bytes(value),
        Unit::BytesPerSecond => format!("{}/s", bytes(value)),
        Unit::PerSecond => format!("{}/s", digits(value)),
        Unit::Count => trimmed(digits(value)),
    }
}

/// An exact size, such as `64 KiB`.
pub(super) fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let value = bytes as f64;
    trimmed(quantity(value, Unit::Bytes))
}

/// A quantity on an axis: without trailing zeros.
pub(super) fn tick(value: f64, unit: Unit) -> String {
    trimmed(quantity(value, unit))
}

/// A ratio, such as `1.39×`.
pub(super) fn times(ratio: f64) -> String {
    if ratio.is_finite() {
        format!("{}×", digits(ratio))
    } else {
        "–".to_owned()
    }
}

/// A ratio in a sentence: `1.4 times`, `26 times`.
pub(super) fn times_in_words(ratio: f64) -> String {
    if ratio < 9.95 {
        trimmed(format!("{ratio:.1} times"))
    } else {
        format!("{} times", grouped(ratio, 0))
    }
}

/// A part of a whole, such as `12 %`.
pub(super) fn percent(part: f64) -> String {
    match part * 100.0 {
        hundredths if !hundredths.is_finite() => "–".to_owned(),
        hundredths if hundredths != 0.0 && hundredths.abs() < 1.0 => format!("under 1{GAP}%"),
        hundredths => format!("{}{GAP}%", grouped(hundredths, 0)),
    }
}

fn time(nanoseconds: f64) -> String {
    scaled(
        nanoseconds,
        &[
            (1.0, "ns"),
            (1e3, "µs"),
            (1e6, "ms"),
            (1e9, "s"),
            (3600e9, "h"),
        ],
    )
}

fn bytes(bytes: f64) -> String {
    const KIB: f64 = 1024.0;
    scaled(
        bytes,
        &[
            (1.0, "B"),
            (KIB, "KiB"),
            (KIB * KIB, "MiB"),
            (KIB * KIB * KIB, "GiB"),
            (KIB * KIB * KIB * KIB, "TiB"),
        ],
    )
}

/// In the largest unit that makes it at least 1 after rounding.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    let mut shown = format!(
        "{}{GAP}{}",
        digits(value),
        units.first().map_or("", |unit| unit.1)
    );
    for &(size, name) in units {
        if value.abs() >= size * 0.9995 {
            shown = format!("{}{GAP}{name}", digits(value / size));
        }
    }
    shown
}

/// Three significant digits, with separators between thousands.
fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 1e15 => format!("{value:.2e}"),
        size if size >= 99.95 => grouped(value, 0),
        size if size >= 9.995 => grouped(value, 1),
        size if size >= 0.01 => grouped(value, 2),
        _ => format!("{value:.1e}"),
    }
}

/// Rounded to this many decimals, with commas between thousands.
fn grouped(value: f64, decimals: usize) -> String {
    let plain = format!("{value:.decimals$}");
    let (whole, rest) = plain.split_at(plain.find('.').unwrap_or(plain.len()));
    let (sign, whole) = match whole.strip_prefix('-') {
        Some(whole) => ("−", whole),
        None => ("", whole),
    };
    let mut shown = sign.to_owned();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown + rest
}

/// `1.00 ms` as `1 ms`, `2.50 GiB` as `2.5 GiB`.
fn trimmed(shown: String) -> String {
    let (number, rest) = shown.split_at(shown.find([GAP, ' ', '/']).unwrap_or(shown.len()));
    if number.contains('.') && !number.contains('e') {
        let number = number.trim_end_matches('0').trim_end_matches('.');
        format!("{number}{rest}")
    } else {
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_and_a_unit() {
        let shown = |value, unit| quantity(value, unit).replace(GAP, " ");
        assert_eq!(shown(0.0, Unit::Nanoseconds), "0 ns");
        assert_eq!(shown(7123.0, Unit::Nanoseconds), "7.12 µs");
        assert_eq!(shown(999_600.0, Unit::Nanoseconds), "1.00 ms");
        assert_eq!(shown(42e6, Unit::Nanoseconds), "42.0 ms");
        assert_eq!(shown(-1500.0, Unit::Nanoseconds), "−1.50 µs");
        assert_eq!(shown(1536.0, Unit::Bytes), "1.50 KiB");
        assert_eq!(shown(12_345.6, Unit::PerSecond), "12,346/s");
        assert_eq!(
            shown(3.0 * 1024f64.powi(3), Unit::BytesPerSecond),
            "3.00 GiB/s"
        );
        assert_eq!(shown(148.0, Unit::Count), "148");
        assert_eq!(shown(f64::NAN, Unit::Count), "–");
        assert_eq!(shown(f64::INFINITY, Unit::Bytes), "–");
        assert_eq!(shown(f64::MAX, Unit::Count), "1.80e308");
        assert_eq!(shown(0.000_2, Unit::Count), "2.0e-4");
    }

    #[test]
    fn ratios_and_parts() {
        assert_eq!(times(1.394), "1.39×");
        assert_eq!(times(f64::INFINITY), "–");
        assert_eq!(times_in_words(1.39), "1.4 times");
        assert_eq!(times_in_words(3.01), "3 times");
        assert_eq!(times_in_words(26.2), "26 times");
        assert_eq!(percent(0.124).replace(GAP, " "), "12 %");
        assert_eq!(percent(0.001).replace(GAP, " "), "under 1 %");
        assert_eq!(size(65536).replace(GAP, " "), "64 KiB");
        assert_eq!(tick(1e6, Unit::Nanoseconds).replace(GAP, " "), "1 ms");
        assert_eq!(tick(1000.0, Unit::PerSecond), "1,000/s");
    }
}
