//! The value of a key of `wrun.toml`, as the words of an option that it stands for.
//!
//! Invariant: a value goes through the parser of its option, so that both take the same text.

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command};
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::ops::Range;
use toml::Spanned;
use toml::de::DeValue;

/// A flag that is set.
pub(super) const ON: &str = "true";

/// The app that answers requests; above the first route, those of all others.
pub(super) const APP: &str = "app";
/// The name of an option in the file.
pub(super) fn name(arg: &Arg) -> &str {
    arg.get_long().unwrap_or(APP)
}

pub(super) fn is_flag(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

pub(super) fn option_word(name: &str, value: &OsStr) -> OsString {
    let mut word = OsString::from(format!("--{name}="));
    word.push(value);
    word
}

/// What is wrong, and where.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) at: Option<usize>,
    pub(super) why: String,
}

pub(super) fn wrong(span: Range<usize>, why: impl Into<String>) -> Wrong {
    Wrong {
        at: Some(span.start),
        why: why.into(),
    }
}

pub(super) fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

pub(super) type Value<'a> = Spanned<DeValue<'a>>;

/// The values of a key, each checked by the parser of its option.
pub(super) fn values(arg: &Arg, value: &Value<'_>) -> Result<Vec<OsString>, Wrong> {
    let key = name(arg);
    let takes_many = matches!(arg.get_action(), ArgAction::Append);
    let mut values = Vec::new();
    match value.get_ref() {
        // For names with values: `env = { K = "V" }`, as `env = ["K=V"]`.
        DeValue::Table(table) if ["env", "task"].contains(&key) => {
            for (name, value) in table {
                let text = string(value, "a string")?;
                let (name, span) = (name.get_ref(), name.span());
                if name.is_empty() || name.contains('=') {
                    let why = format!("{key}: {name:?} is not a name: it is empty or has a `=`");
                    return Err(wrong(span, why));
                }
                values.push((format!("{name}={text}"), value.span()));
            }
        }
        DeValue::Array(items) if takes_many => {
            for item in items.iter() {
                values.push((scalar(key, item)?, item.span()));
            }
        }
        DeValue::Array(_) => {
            return Err(wrong(value.span(), format!("{key}: expected one value")));
        }
        DeValue::Boolean(is_set) if is_flag(arg) => return Ok(vec![is_set.to_string().into()]),
        _ if is_flag(arg) => {
            return Err(wrong(
                value.span(),
                format!("{key}: expected true or false"),
            ));
        }
        _ => values.push((scalar(key, value)?, value.span())),
    }
    for (text, span) in &values {
        check(arg, text).map_err(|why| wrong(span.clone(), format!("{key}: {why}")))?;
    }
    Ok(values.into_iter().map(|(text, _)| text.into()).collect())
}

/// A value in the form that it has on the command line.
fn scalar(key: &str, value: &Value<'_>) -> Result<String, Wrong> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text.clone().into_owned()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Ok(number.to_string()),
            Err(_) => Err(wrong(
                value.span(),
                format!("{key}: the number is too large"),
            )),
        },
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        _ => {
            let why = format!("{key}: expected a string or a number");
            Err(wrong(value.span(), why))
        }
    }
}

pub(super) fn string<'a>(value: &'a Value<'_>, what: &str) -> Result<&'a str, Wrong> {
    let text = value.get_ref().as_str();
    text.ok_or_else(|| wrong(value.span(), format!("expected {what}, as a string")))
}

/// Has an option's parser look at a value.
fn check(arg: &Arg, text: &str) -> Result<(), String> {
    let mut alone = Arg::new("value").value_parser(arg.get_value_parser().clone());
    alone = alone.action(ArgAction::Set).long("value");
    let command = Command::new("check").arg(alone);
    let word = option_word("value", OsStr::new(text));
    let checked = command.try_get_matches_from(["check".into(), word]);
    checked.map(|_| ()).map_err(|error| of_clap(&error))
}

/// An error of clap without what is about the command line.
pub(super) fn of_clap(error: &clap::Error) -> String {
    if let Some(source) = error.source() {
        return one_line(&source.to_string());
    }
    if let Some(ContextValue::Strings(names)) = error.get(ContextKind::ValidValue)
        && !names.is_empty()
    {
        return format!("expected one of {}", names.join(", "));
    }
    let text = error.to_string();
    let text = text.split("\n\n").next().unwrap_or_default();
    one_line(text.strip_prefix("error: ").unwrap_or(text))
}
