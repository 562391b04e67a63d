//! Bytes in a message, or the object that has them.

use super::name::Digest;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// An object in the store of the fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectRef {
    /// Its name in the store.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its digest, which is checked before anything uses it.
    pub blake3: Digest,
}

impl ObjectRef {
    /// Maximum length of a name.
    pub const MAX_NAME: usize = 256;

    pub(crate) fn check(&self) -> Result<(), String> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let name = &self.name;
        match !name.is_empty() && name.len() <= Self::MAX_NAME && name.bytes().all(is_plain) {
            true => Ok(()),
            false => Err(format!(
                "the name of the object is {:?}: expected 1 to {} letters, digits, `-`, `_` or `.`",
                super::cut(name, 64),
                Self::MAX_NAME
            )),
        }
    }
}

/// An input: at most one of the fields; none is no bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// The bytes as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The bytes in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// The object that has the bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectRef>,
}

/// What a [`Content`] is, once it was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    Bytes(Bytes),
    Object(ObjectRef),
}

impl Content {
    /// These bytes, at most [`MAX_INLINE`](super::MAX_INLINE) of which a message may have.
    pub fn bytes(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok("") => Content::default(),
            Ok(text) => Content {
                text: Some(text.to_owned()),
                ..Content::default()
            },
            Err(_) => Content {
                base64: Some(BASE64_STANDARD.encode(bytes)),
                ..Content::default()
            },
        }
    }

    /// The bytes of this object.
    pub fn object(object: ObjectRef) -> Self {
        Content {
            object: Some(object),
            ..Content::default()
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Content::default()
    }

    pub(crate) fn check(&self) -> Result<Checked, String> {
        let bytes = match (&self.text, &self.base64, &self.object) {
            (None, None, None) => Bytes::new(),
            (Some(text), None, None) => Bytes::copy_from_slice(text.as_bytes()),
            (None, Some(text), None) => match BASE64_STANDARD.decode(text) {
                Ok(bytes) => bytes.into(),
                Err(why) => return Err(format!("the input is not base64: {why}")),
            },
            (None, None, Some(object)) => {
                object.check()?;
                return Ok(Checked::Object(object.clone()));
            }
            _ => return Err("the input has more than one of text, base64 and object".into()),
        };
        match bytes.len() <= super::MAX_INLINE {
            true => Ok(Checked::Bytes(bytes)),
            false => Err(format!(
                "the input has {} bytes within the message, which may have {}: put it into the \
                 object store",
                bytes.len(),
                super::MAX_INLINE
            )),
        }
    }
}
