//! Text with places for an input, as in GNU parallel: `{}`, `{/}`, `{.}`, `{/.}`, `{//}`, `{#}`.

use crate::input::InputError;
use std::path::Path;

/// A parsed template. Any text is one: braces with other content stand for themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    source: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Place(Place),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Whole,
    Base,
    Stem,
    BaseStem,
    Folder,
    Number,
}

const PLACES: [(&str, Place); 6] = [
    ("{}", Place::Whole),
    ("{/}", Place::Base),
    ("{.}", Place::Stem),
    ("{/.}", Place::BaseStem),
    ("{//}", Place::Folder),
    ("{#}", Place::Number),
];

/// What a template is filled in with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    /// `None` if it is not UTF-8.
    pub(crate) text: Option<&'a str>,
    /// From 1.
    pub(crate) number: u64,
}

impl Template {
    /// Parses a template.
    pub fn new(source: impl Into<String>) -> Self {
        let source = source.into();
        let (mut parts, mut rest, mut text) = (Vec::new(), &*source, String::new());
        while let Some(first) = rest.chars().next() {
            let place = PLACES.iter().find(|(name, _)| rest.starts_with(name));
            match place {
                Some((name, place)) => {
                    if !text.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut text)));
                    }
                    parts.push(Part::Place(*place));
                    rest = &rest[name.len()..];
                }
                None => {
                    text.push(first);
                    rest = &rest[first.len_utf8()..];
                }
            }
        }
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Template { source, parts }
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it has a place for the input itself, which `{#}` is not.
    pub fn takes_input(&self) -> bool {
        let is_input = |part: &Part| !matches!(part, Part::Text(_) | Part::Place(Place::Number));
        self.parts.iter().any(is_input)
    }

    pub(crate) fn fill(&self, subject: Subject<'_>) -> Result<String, InputError> {
        let mut filled = String::with_capacity(self.source.len());
        for part in &self.parts {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Place(Place::Number) => filled.push_str(&subject.number.to_string()),
                Part::Place(place) => {
                    let text = subject.text.ok_or_else(|| {
                        let why = "the input is not UTF-8, as an argument or a name must be";
                        InputError(why.into())
                    })?;
                    filled.push_str(&place.of(text));
                }
            }
        }
        Ok(filled)
    }
}

impl Place {
    fn of(self, text: &str) -> String {
        let path = Path::new(text);
        let base = || {
            path.file_name()
                .map_or(text, |it| it.to_str().unwrap_or(text))
        };
        // The dot of a hidden file does not begin an extension.
        let stem = |base: &str| match base.rfind('.') {
            Some(at) if at > 0 => base.len() - at,
            _ => 0,
        };
        match self {
            Place::Whole | Place::Number => text.to_owned(),
            Place::Base => base().to_owned(),
            Place::BaseStem => base()[..base().len() - stem(base())].to_owned(),
            Place::Stem => {
                let slash = text.rfind('/').map_or(0, |at| at + 1);
                text[..text.len() - stem(&text[slash..])].to_owned()
            }
            Place::Folder => match text.rfind('/') {
                None => ".".to_owned(),
                Some(0) => "/".to_owned(),
                Some(at) => text[..at].to_owned(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &str, text: &str) -> String {
        let subject = Subject {
            text: Some(text),
            number: 7,
        };
        Template::new(template).fill(subject).expect("UTF-8")
    }

    #[test]
    fn places_are_those_of_parallel() {
        for (template, expected) in [
            ("{}", "a/b.tar.gz"),
            ("{/}", "b.tar.gz"),
            ("{.}", "a/b.tar"),
            ("{/.}", "b.tar"),
            ("{//}", "a"),
            ("{#}", "7"),
            ("--in={} {x} {", "--in=a/b.tar.gz {x} {"),
            ("{{}}", "{a/b.tar.gz}"),
        ] {
            assert_eq!(filled(template, "a/b.tar.gz"), expected, "{template}");
        }
        assert_eq!(filled("{.} {/.} {//}", ".hidden"), ".hidden .hidden .");
        assert_eq!(filled("{.}", "a.b/c"), "a.b/c");
        assert_eq!(filled("{//} {/}", "/a"), "/ a");
        assert_eq!(filled("{/}{.}{//}", ""), ".");
    }

    #[test]
    fn text_that_is_not_utf8_has_only_a_number() {
        let subject = Subject {
            text: None,
            number: 1,
        };
        assert!(Template::new("{/}").fill(subject).is_err());
        assert_eq!(Template::new("n{#}").fill(subject), Ok("n1".to_owned()));
        assert!(!Template::new("n{#}").takes_input());
        assert!(Template::new("{.}").takes_input());
    }
}
