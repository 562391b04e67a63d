//! Names of a guest's functions, as in the guest's source.
//!
//! A name comes from the guest: a short mangled name can stand for one that is longer than
//! memory, so both what is read and what is written are bounded.

use super::source::{MAX_NAME, shown};
use cpp_demangle::DemangleOptions;
use std::fmt::{self, Write};

/// Maximum length of a mangled name, in bytes; longer ones stay as they are.
const MAX_MANGLED: usize = 2_000;

/// The name for people, on one line: demangled if it is one of Rust or C++.
pub(super) fn demangled(name: &str) -> String {
    if name.len() > MAX_MANGLED {
        return shown(name);
    }
    let mut text = Bounded::default();
    let written = if let Ok(rust) = rustc_demangle::try_demangle(name) {
        write!(text, "{rust}")
    } else if is_cpp(name)
        && let Ok(symbol) = cpp_demangle::BorrowedSymbol::new(name.as_bytes())
    {
        symbol.structured_demangle(&mut text, &DemangleOptions::new())
    } else {
        Err(fmt::Error)
    };
    // A cut name is good: more of it would not be shown.
    if written.is_err() && !text.cut {
        return shown(name);
    }
    shown(&text.text)
}

/// Whether it begins like a mangled name of C++. The demangler accepts types, too: it reads
/// `f` as `float`.
fn is_cpp(name: &str) -> bool {
    let unprefixed = name.trim_start_matches('_');
    let underscores = name.len() - unprefixed.len();
    (1..=4).contains(&underscores) && unprefixed.starts_with('Z') || name.starts_with("_GLOBAL_")
}

/// A text that stores no more than [`shown`] would show.
#[derive(Default)]
struct Bounded {
    text: String,
    /// The name was longer.
    cut: bool,
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // At most four bytes for a character, and one more character than is shown.
        let room = (4 * (MAX_NAME + 1)).saturating_sub(self.text.len());
        let end = text.floor_char_boundary(room);
        self.text.push_str(&text[..end]);
        self.cut |= end < text.len();
        if self.cut { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_demangled() {
        for (name, expected) in [
            ("_ZN6shapes4areaEj", "shapes::area(unsigned int)"),
            (
                "_ZNSt6vectorIiSaIiEE9push_backERKi",
                "std::vector<int, std::allocator<int> >::push_back(int const&)",
            ),
            (
                "_ZN4core9panicking5panic17h0123456789abcdefE",
                "core::panicking::panic::h0123456789abcdef",
            ),
            ("_RNvC7mycrate3foo", "mycrate::foo"),
            ("main", "main"),
            ("f", "f"),
            ("St6vectorIiE", "St6vectorIiE"),
            ("_Z", "_Z"),
            ("_ZN", "_ZN"),
            ("", ""),
            ("a\nb", "a\u{fffd}b"),
        ] {
            assert_eq!(demangled(name), expected);
        }
    }

    /// Each pair of substitutions doubles the output.
    #[test]
    fn what_a_name_stands_for_is_bounded() {
        let mut types = String::new();
        for n in 0..60 {
            let of = if n == 0 {
                "i".to_owned()
            } else {
                format!("S{}_", base36(n - 1))
            };
            let _ = write!(types, "1AI{of}{of}E");
        }
        let name = format!("_Z1f{types}");
        let shown = demangled(&name);
        assert!(shown.chars().count() <= MAX_NAME + 3, "{shown}");
        let long = format!("_ZN{}1aE", "1a".repeat(10_000));
        assert!(demangled(&long).starts_with("_ZN1a"));
    }

    fn base36(n: u32) -> String {
        match n {
            0 => String::new(),
            n => char::from_digit((n - 1) % 36, 36)
                .map_or_else(String::new, |c| c.to_ascii_uppercase().to_string()),
        }
    }
}
