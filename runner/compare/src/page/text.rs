//! Strings from elsewhere, shown unchanged and without effect.

use maud::{Escaper, Markup, Render, html};
use std::fmt::Write;

/// A string of the results: a name, an argument, a finding. Markup in it is text;
/// characters that are invisible, or would reverse the text around them, are spelled out.
pub(super) struct Text<'a>(pub(super) &'a str);

impl Render for Text<'_> {
    fn render_to(&self, page: &mut String) {
        let mut visible = String::with_capacity(self.0.len());
        for c in self.0.chars() {
            if is_unseen(c) {
                visible.extend(c.escape_unicode());
            } else {
                visible.push(c);
            }
        }
        // Writing to a string does not fail.
        let _ = Escaper::new(page).write_str(&visible);
    }
}

/// Characters that cannot stand in a page, are invisible, or change the direction of the
/// following text.
fn is_unseen(c: char) -> bool {
    let noncharacter = (c as u32) & 0xfffe == 0xfffe || ('\u{fdd0}'..='\u{fdef}').contains(&c);
    let direction = matches!(c, '\u{200e}' | '\u{200f}' | '\u{61c}'
        | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let invisible = matches!(
        c,
        '\u{200b}' | '\u{2060}' | '\u{feff}' | '\u{2028}' | '\u{2029}'
    );
    (c.is_control() && c != '\n' && c != '\t') || noncharacter || direction || invisible
}

/// A command to type, as one piece.
pub(super) fn command(line: &str) -> Markup {
    html! { code.command { (Text(line)) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_text_and_the_unseen_is_seen() {
        let hostile = "</title><script>\"'&\0\u{202e}gpj.exe\u{ffff}\r";
        assert_eq!(
            html! { (Text(hostile)) }.into_string(),
            "&lt;/title&gt;&lt;script&gt;&quot;'&amp;\\u{0}\\u{202e}gpj.exe\\u{ffff}\\u{d}"
        );
    }
}
