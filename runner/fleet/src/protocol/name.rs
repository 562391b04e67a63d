//! Names in subjects and keys, and digests: checked where they are made, so that no other code
//! meets a wildcard or a path in one.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Why a name is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidName(String);

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

/// One part of a subject: a class or a tenant. 1 to 32 ASCII letters, digits, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token(String);

impl Token {
    /// Maximum length in bytes.
    pub const MAX: usize = 32;

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Token {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match !text.is_empty() && text.len() <= Self::MAX && text.chars().all(is_plain) {
            true => Ok(Token(text.to_owned())),
            false => Err(InvalidName(format!(
                "{:?} is not a class or tenant: expected 1 to {} letters, digits, `-` or `_`",
                super::cut(text, Self::MAX),
                Self::MAX
            ))),
        }
    }
}

/// The identifier of a task, which is the key of its result: 1 to 128 ASCII letters, digits, `-`
/// and `_`, with dots between parts. Whoever submits a task chooses it; the same identifier is
/// the same task.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TaskId(String);

impl TaskId {
    /// Maximum length in bytes.
    pub const MAX: usize = 128;

    /// A new one, unlike any other.
    pub fn random() -> Self {
        TaskId(format!("{:032x}", rand::random::<u128>()))
    }

    /// This one and another part, unlike any other. Of a long one the beginning is cut off.
    pub(crate) fn with_random(&self) -> Self {
        let part = format!(".{:016x}", rand::random::<u64>());
        let cut = self.0.len().saturating_sub(Self::MAX - part.len());
        // All letters are ASCII.
        let end = self.0[cut..].trim_start_matches('.');
        TaskId(format!("{end}{part}"))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TaskId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let has_parts = text
            .split('.')
            .all(|part| !part.is_empty() && part.chars().all(is_plain));
        match text.len() <= Self::MAX && has_parts {
            true => Ok(TaskId(text.to_owned())),
            false => Err(InvalidName(format!(
                "{:?} is not the id of a task: expected 1 to {} letters, digits, `-` or `_`, with \
                 dots between parts",
                super::cut(text, Self::MAX),
                Self::MAX
            ))),
        }
    }
}

/// A BLAKE3 digest; in messages 64 hexadecimal digits in lower case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Digest(blake3::hash(bytes).into())
    }

    pub(crate) fn from_hasher(hasher: &blake3::Hasher) -> Self {
        Digest(hasher.finalize().into())
    }
}

impl FromStr for Digest {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        match blake3::Hash::from_hex(text) {
            Ok(hash) if is_lower => Ok(Digest(hash.into())),
            _ => Err(InvalidName(format!(
                "{:?} is not a BLAKE3 digest: expected 64 hexadecimal digits in lower case",
                super::cut(text, 64)
            ))),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! from_string {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.to_string()
            }
        }
    )*};
}

from_string!(Token, TaskId, Digest);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_a_random_part_are_valid_and_differ() {
        for name in ["w", &"a.".repeat(63), &"a".repeat(128)] {
            let name: TaskId = name.trim_end_matches('.').parse().expect("a name");
            let (one, other) = (name.with_random(), name.with_random());
            assert_ne!(one, other);
            assert_eq!(one.as_str().parse(), Ok(one.clone()));
        }
    }

    #[test]
    fn names_have_no_wildcards_and_no_paths() {
        for bad in [
            "",
            "*",
            ">",
            "a.b",
            "a b",
            "../x",
            "é",
            &"a".repeat(33),
            "a\n",
        ] {
            assert!(bad.parse::<Token>().is_err(), "{bad:?}");
        }
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a.*",
            "a.>",
            "a/b",
            "$JS",
            &"a".repeat(129),
        ] {
            assert!(bad.parse::<TaskId>().is_err(), "{bad:?}");
        }
        assert!("batch-1.000042".parse::<TaskId>().is_ok());
        assert!("high".parse::<Token>().is_ok());
        assert_eq!(TaskId::random().as_str().len(), 32);
    }

    #[test]
    fn digests_have_one_form() {
        let digest = Digest::of(b"wrun");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert!(digest.to_string().to_uppercase().parse::<Digest>().is_err());
        assert!("12".parse::<Digest>().is_err());
    }
}
