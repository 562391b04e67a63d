//! The values of options: how they are written, and the messages for other text.

use super::args::Cli;
use clap::builder::{OsStringValueParser, PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command, CommandFactory};
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStringExt;
use std::str::FromStr;
use std::time::Duration;

/// One of the names of a type's values: completions and messages list them.
pub(super) fn one_of<T>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: FromStr + Clone + Send + Sync + 'static,
    T::Err: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    PossibleValuesParser::new(names).try_map(|name| name.parse::<T>().map_err(Into::into))
}

/// A whole number in a range.
pub(super) fn whole<T>(range: RangeInclusive<u64>) -> impl TypedValueParser<Value = T>
where
    T: TryFrom<u64> + Clone + Send + Sync + 'static,
{
    move |text: &str| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| {
            let (first, last) = (range.start(), range.end());
            format!("expected a whole number from {first} to {last}")
        })
    }
}

/// The format of a time.
const A_TIME: &str = "500ms, 5s, 2min, or a number of seconds";

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = time(text).filter(|duration| !duration.is_zero());
    duration.ok_or_else(|| format!("expected a time greater than zero: {A_TIME}"))
}

/// A time that may be zero.
pub(super) fn grace(text: &str) -> Result<Duration, String> {
    time(text).ok_or_else(|| format!("expected a time: {A_TIME}"))
}

/// How long something is kept on a server: not shorter than who waits for it may be cut off, nor
/// longer than a server can count.
pub(super) fn kept(text: &str) -> Result<Duration, String> {
    const LEAST: Duration = Duration::from_secs(60);
    const MOST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    let kept = time(text).filter(|time| (LEAST..=MOST).contains(time));
    kept.ok_or_else(|| "expected a time from 1min to 100years: 12h, 7days, 4weeks".into())
}

fn time(text: &str) -> Option<Duration> {
    match text.parse::<f64>() {
        // A bare number is seconds, as for timeout(1).
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => humantime::parse_duration(text).ok(),
    }
}

pub(super) fn size(text: &str) -> Result<u64, String> {
    text.parse::<bytesize::ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|_| "expected a size: 512KiB, 64MiB, 2GiB, or a number of bytes".into())
}

/// A size that is not zero.
pub(super) fn some_size(text: &str) -> Result<u64, String> {
    match size(text) {
        Ok(0) => Err("expected a size greater than zero: 512KiB, 64MiB, 2GiB".into()),
        other => other,
    }
}

/// The error of a value that is not UTF-8 with the option and the value, which clap leaves out.
pub(super) fn with_its_option(error: clap::Error) -> clap::Error {
    if error.kind() != ErrorKind::InvalidUtf8 {
        return error;
    }
    // The first that is wrong is the one of before: the others are checked as they were.
    let parsed = naming(Cli::command()).try_get_matches();
    parsed.err().unwrap_or(error)
}

/// The same command, whose errors name the options of values that are not UTF-8.
fn naming(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        if !arg.get_action().takes_values() || takes_any(&arg) {
            return arg;
        }
        let names = arg.get_possible_values();
        let names: Vec<_> = names.iter().map(|it| it.get_name().to_owned()).collect();
        let expected = match &names[..] {
            [] => "expected text in UTF-8".to_owned(),
            names => format!("expected one of {}", names.join(", ")),
        };
        arg.value_parser(OsStringValueParser::new().try_map(move |text: OsString| {
            match text.to_str() {
                Some(_) => Ok(text),
                None => Err(expected.clone()),
            }
        }))
    });
    command.mut_subcommands(naming)
}

/// Whether the parser of this argument looks at values that are not UTF-8, to take or refuse
/// them by itself.
fn takes_any(arg: &Arg) -> bool {
    let alone = Arg::new("value").value_parser(arg.get_value_parser().clone());
    let alone = Command::new("check").arg(alone.action(ArgAction::Set).long("value"));
    let word = OsString::from_vec(b"--value=\xff".to_vec());
    let checked = alone.try_get_matches_from(["check".into(), word]);
    checked.map_or_else(|error| error.kind() != ErrorKind::InvalidUtf8, |_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times() {
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("10"), Ok(10));
        assert_eq!((size("0"), some_size("1")), (Ok(0), Ok(1)));
        assert!(some_size("0KiB").is_err());
        assert!(size("lots").is_err());
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1500)));
        for bad in ["0", "0s", "-1", "soon", "nan"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!(grace("0"), Ok(Duration::ZERO));
    }
}
