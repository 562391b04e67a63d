//! `wrun.toml`: the options of `wrun serve` in a file, and routes with limits and grants of their
//! own.
//!
//! A key is the long name of an option, and its value goes through the parser of that option: a
//! new option is a new key, and both take the same text. Invariant: the options of the command
//! line replace the keys of the file, and the keys of a route those above the first route.

use super::read::read;
use super::serve_args::{ServeArgs, ServedRoute};
use super::serve_value::{
    APP, ON, Value, Wrong, is_flag, name, of_clap, one_line, option_word, string, values, wrong,
};
use super::{Failure, exit};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use wrun_serve::Pattern;

/// What a route may have of its own. A new limit or grant of an app is one more name here.
const OF_A_ROUTE: [&str; 14] = [
    "allow-http",
    "allow-precompiled",
    "allow-tcp",
    "dir",
    "env",
    "fuel",
    "max-body",
    "max-depth",
    "max-memory",
    "max-output",
    "max-tasks",
    "max-total-memory",
    "task",
    "timeout",
];

/// What only the command line has.
const OF_THE_COMMAND_LINE: [&str; 2] = ["config", "route"];

/// The requests that it answers, and the name of the routes' tables.
const ROUTE: &str = "route";

/// Largest file of settings.
const MAX_SIZE: u64 = 1 << 20;

/// Values as they would stand on the command line, by the long names of their options. That of a
/// flag is [`ON`], or another text where it is not set.
pub(crate) type Values = BTreeMap<String, Vec<OsString>>;

/// Settings that are read from a file, again at each reload.
#[derive(Clone, Debug)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    /// What the command line says, which the file does not change.
    given: Values,
}

/// Completes the arguments by what their file says, if they name one.
pub(super) fn apply(args: &mut ServeArgs, matches: &ArgMatches) -> Result<(), Failure> {
    let Some(path) = args.config.clone() else {
        return Ok(());
    };
    let given = given(&command(), matches);
    let file = ConfigFile { path, given };
    *args = file
        .read(None)
        .map_err(|message| Failure::new(exit::USAGE, message))?;
    args.config_file = Some(file);
    Ok(())
}

/// The options of `wrun serve`.
fn command() -> Command {
    ServeArgs::augment_args(Command::new("serve"))
}

/// What was typed, without defaults.
fn given(command: &Command, matches: &ArgMatches) -> Values {
    let args = command.get_arguments().filter(|arg| {
        let source = matches.value_source(arg.get_id().as_str());
        source == Some(ValueSource::CommandLine)
    });
    let args = args.map(|arg| {
        let values = matches.get_raw(arg.get_id().as_str());
        let values = values.into_iter().flatten().map(OsStr::to_owned);
        let values = match is_flag(arg) {
            true => vec![ON.into()],
            false => values.collect(),
        };
        (name(arg).to_owned(), values)
    });
    args.collect()
}

impl ConfigFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The arguments that it makes, with those of the command line. A pipe may have its writer
    /// for `patience`.
    ///
    /// # Errors
    ///
    /// A line for people, with the file and, where it is known, the line.
    pub(super) fn read(&self, patience: Option<Duration>) -> Result<ServeArgs, String> {
        let file = self.path.display();
        let text = text_of(&self.path, patience).map_err(|why| format!("{file}: {why}"))?;
        self.parse(&text).map_err(|Wrong { at, why }| match at {
            Some(at) => {
                let before = text.get(..at).unwrap_or(&text);
                let line = before.matches('\n').count() + 1;
                format!("{file}:{line}: {why}")
            }
            None => format!("{file}: {why}"),
        })
    }

    fn parse(&self, text: &str) -> Result<ServeArgs, Wrong> {
        let table = DeTable::parse(text).map_err(|error| Wrong {
            at: error.span().map(|span| span.start),
            why: one_line(error.message()),
        })?;
        let command = command();
        let mut tables = Vec::new();
        let mut server = Values::new();
        for (key, value) in table.get_ref() {
            if key.get_ref() == ROUTE {
                tables = routes(value)?;
            } else if OF_THE_COMMAND_LINE.contains(&&**key.get_ref()) {
                return Err(wrong(key.span(), "it is for the command line alone"));
            } else {
                let arg = option(&command, key, |_| true)?;
                server.insert(name(arg).to_owned(), values(arg, value)?);
            }
        }
        let mut args = self.arguments(&command, &server, None)?;
        args.of_the_start = server.clone();
        args.of_the_start
            .retain(|name, _| name != APP && !OF_A_ROUTE.contains(&&**name));
        // Routes of the command line replace those of the file.
        if [APP, ROUTE].iter().any(|it| self.given.contains_key(*it)) {
            return Ok(args);
        }
        for (at, table) in tables {
            args.routes.push(self.route(&command, &server, &at, table)?);
        }
        Ok(args)
    }

    fn route(
        &self,
        command: &Command,
        server: &Values,
        at: &Range<usize>,
        table: &DeTable<'_>,
    ) -> Result<ServedRoute, Wrong> {
        let (mut pattern, mut file) = (None, None);
        let mut own = Values::new();
        for (key, value) in table {
            match &**key.get_ref() {
                ROUTE => {
                    let text = string(value, "[HOST]/PREFIX")?;
                    let parsed = text.parse::<Pattern>();
                    let parsed = parsed.map_err(|why| wrong(value.span(), why.to_string()))?;
                    pattern = Some(parsed);
                }
                APP => file = Some(string(value, "the name of a file")?),
                _ => {
                    let arg = option(command, key, |name| OF_A_ROUTE.contains(&name))?;
                    own.insert(name(arg).to_owned(), values(arg, value)?);
                }
            }
        }
        let missing = |key: &str| wrong(at.clone(), format!("a route needs the key {key:?}"));
        let pattern = pattern.ok_or_else(|| missing(ROUTE))?;
        let file = file.ok_or_else(|| missing(APP))?;
        let args = self
            .arguments(command, server, Some(&own))
            .and_then(|args| {
                let checked = args.grants.children.check();
                let checked = checked.and_then(|()| args.children.check(args.max_memory));
                checked.map_err(|failure| Wrong {
                    at: None,
                    why: failure.message,
                })?;
                Ok(args)
            });
        Ok(ServedRoute {
            pattern,
            file: self.beside(Path::new(&file)),
            args: Box::new(args.map_err(|Wrong { why, .. }| wrong(at.clone(), why))?),
        })
    }

    /// What the keys of the server, those of a route and the command line make together.
    fn arguments(
        &self,
        command: &Command,
        server: &Values,
        route: Option<&Values>,
    ) -> Result<ServeArgs, Wrong> {
        let mut merged = server.clone();
        merged.extend(
            route
                .into_iter()
                .flatten()
                .map(|(k, v)| (k.clone(), v.clone())),
        );
        if route.is_some() {
            merged.remove(APP);
        }
        let of_the_file: Vec<String> = merged
            .keys()
            .filter(|name| !self.given.contains_key(*name))
            .cloned()
            .collect();
        // Apps of the command line are instead of those of the file.
        if self.given.contains_key(ROUTE) {
            merged.remove(APP);
        }
        // With --config, for which clap requires no app.
        merged.extend(self.given.clone());
        let mut words: Vec<OsString> = vec!["serve".into()];
        let mut app = Vec::new();
        for (name, values) in merged {
            let is_flag = command
                .get_arguments()
                .any(|arg| arg.get_long() == Some(&name) && is_flag(arg));
            if name == APP {
                app = values;
            } else if is_flag {
                words.extend(
                    values
                        .contains(&ON.into())
                        .then(|| format!("--{name}").into()),
                );
            } else {
                words.extend(values.into_iter().map(|value| option_word(&name, &value)));
            }
        }
        words.push("--".into());
        words.extend(app);
        let matches = command.clone().try_get_matches_from(words);
        let args = matches.and_then(|matches| ServeArgs::from_arg_matches(&matches));
        let mut args = args.map_err(|error| Wrong {
            at: None,
            why: of_clap(&error),
        })?;
        self.resolve(&mut args, &of_the_file);
        Ok(args)
    }

    /// Paths of the file are relative to its directory.
    fn resolve(&self, args: &mut ServeArgs, of_the_file: &[String]) {
        let beside = |path: &mut PathBuf| *path = self.beside(path);
        for name in of_the_file {
            match name.as_str() {
                APP => args.app.iter_mut().for_each(beside),
                "dir" => args
                    .grants
                    .dir
                    .iter_mut()
                    .for_each(|it| beside(&mut it.host)),
                "task" => args
                    .grants
                    .children
                    .task
                    .iter_mut()
                    .for_each(|it| beside(&mut it.file)),
                "http-ca" => args.grants.http_ca.iter_mut().for_each(beside),
                "tls-cert" => args.tls_cert.iter_mut().for_each(beside),
                "tls-key" => args.tls_key.iter_mut().for_each(beside),
                "unix" => args.unix.iter_mut().for_each(beside),
                _ => {}
            }
        }
    }

    fn beside(&self, path: &Path) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }
}

/// The content of the file.
fn text_of(path: &Path, patience: Option<Duration>) -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("cannot read the settings: {error}");
    let bytes = read(path, MAX_SIZE, patience).map_err(cannot)?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err("the settings are larger than 1 MiB".into());
    }
    String::from_utf8(bytes).map_err(|_| "the settings are not UTF-8".into())
}

/// The tables of routes, and where they begin.
fn routes<'a>(value: &'a Value<'a>) -> Result<Vec<(Range<usize>, &'a DeTable<'a>)>, Wrong> {
    let expected = || wrong(value.span(), "expected tables of routes: [[route]]");
    let DeValue::Array(tables) = value.get_ref() else {
        return Err(expected());
    };
    let tables = tables.iter().map(|table| match table.get_ref() {
        DeValue::Table(inner) => Ok((table.span(), inner)),
        _ => Err(expected()),
    });
    tables.collect()
}

/// The option of a key.
fn option<'a>(
    command: &'a Command,
    key: &Spanned<impl AsRef<str>>,
    is_allowed: impl Fn(&str) -> bool,
) -> Result<&'a Arg, Wrong> {
    let text = key.get_ref().as_ref();
    let mut args = command.get_arguments();
    let known = args.find(|arg| name(arg) == text && !OF_THE_COMMAND_LINE.contains(&text));
    match known {
        Some(arg) if is_allowed(text) => Ok(arg),
        Some(_) => {
            let why = format!(
                "{text:?} is a setting of the server: expected it above the first [[route]], \
                 or for a route one of {}",
                OF_A_ROUTE.join(", ")
            );
            Err(wrong(key.span(), why))
        }
        None => {
            let why = format!(
                "unknown key {text:?}: expected the name of an option of `wrun serve`, without \
                 the hyphens before it"
            );
            Err(wrong(key.span(), why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::serve_args::Unless;
    use super::*;

    fn read(given: &[&str], text: &str) -> Result<ServeArgs, String> {
        let words = ["serve", "--config=conf/wrun.toml"];
        let matches = command().try_get_matches_from(words.iter().chain(given));
        let file = ConfigFile {
            path: "conf/wrun.toml".into(),
            given: super::given(&command(), &matches.expect("a command line")),
        };
        file.parse(text).map_err(|Wrong { at, why }| {
            let line = at.map(|at| text[..at].matches('\n').count() + 1);
            format!("{}: {why}", line.unwrap_or(0))
        })
    }

    const FILE: &str = r#"
        timeout = "5s"
        max-memory = "64MiB"
        env = ["A=1"]
        watch = true
        unix = ["run/socket"]
        http-ca = "ca.pem"

        [[route]]
        route = "/api"
        app = "api.wasm"
        timeout = 1.5
        max-body = "1KiB"
        dir = ["data::/data:ro"]
        env = { B = "2=3" }
        task = { part = "part.wasm" }
        allow-http = ["*.example.org"]
        fuel = 1_000

        [[route]]
        route = "b.example/"
        app = "/b.wasm"
        allow-precompiled = true
    "#;

    #[test]
    fn a_route_has_what_the_server_has_and_its_own() {
        let args = read(&[], FILE).expect("settings");
        assert!(args.watch);
        assert_eq!(args.unix, [PathBuf::from("conf/run/socket")]);
        assert_eq!(args.grants.http_ca, Some("conf/ca.pem".into()));
        let [api, other] = &args.routes[..] else {
            panic!("{:?}", args.routes);
        };
        assert_eq!(api.pattern, "/api".parse().expect("a pattern"));
        assert_eq!(api.file, PathBuf::from("conf/api.wasm"));
        let limits = api.args.limits();
        assert_eq!(limits.timeout, Some(Duration::from_millis(1500)));
        assert_eq!((limits.fuel, limits.max_memory), (Some(1000), 64 << 20));
        assert_eq!(api.args.max_body, Unless(Some(1024)));
        let grants = &api.args.grants;
        assert_eq!(grants.env, [("B".into(), "2=3".into())]);
        assert_eq!(grants.dir[0].host, PathBuf::from("conf/data"));
        assert_eq!(
            grants.children.task[0].file,
            PathBuf::from("conf/part.wasm")
        );
        assert_eq!(
            (grants.allow_http.len(), args.grants.allow_http.len()),
            (1, 0)
        );
        assert_eq!(other.file, PathBuf::from("/b.wasm"));
        assert_eq!(other.args.limits().timeout, Some(Duration::from_secs(5)));
        assert_eq!(other.args.grants.env, [("A".into(), "1".into())]);
        assert!(other.args.grants.dir.is_empty());
        assert!(other.args.allow_precompiled && !api.args.allow_precompiled);
    }

    #[test]
    fn the_command_line_replaces_keys() {
        let given = ["--timeout=9s", "--env=C=3", "--task=part=here.wasm"];
        let args = read(&given, FILE).expect("settings");
        for route in &args.routes {
            let timeout = route.args.limits().timeout;
            assert_eq!(timeout, Some(Duration::from_secs(9)));
            assert_eq!(route.args.grants.env, [("C".into(), "3".into())]);
            // Relative to where the command was typed.
            assert_eq!(
                route.args.grants.children.task[0].file,
                PathBuf::from("here.wasm")
            );
        }
        let args = read(&["x.wasm"], FILE).expect("settings");
        assert!(args.routes.is_empty());
        assert_eq!(args.app, Some("x.wasm".into()));
        let args = read(&["--route=/=x.wasm"], "app = 'y.wasm'").expect("settings");
        assert_eq!((args.app, args.route.len()), (None, 1));
    }

    #[test]
    fn the_example_of_the_manual_is_right() {
        let manual = include_str!("../../../docs/serve.md");
        let (_, rest) = manual.split_once("```toml\n").expect("an example");
        let (example, _) = rest.split_once("```").expect("its end");
        let args = read(&[], example).expect("settings");
        let [_, api, upload] = &args.routes[..] else {
            panic!("{:?}", args.routes);
        };
        assert_eq!(args.apps().len(), 3);
        assert_eq!(api.args.limits().fuel, Some(50_000_000));
        assert_eq!(upload.args.max_body, Unless(Some(2 << 30)));
        assert!(upload.args.grants.env.is_empty());
        // All keys of a route are in the manual.
        for key in OF_A_ROUTE {
            assert!(manual.contains(&format!("`{key}`")), "{key}");
        }
    }

    #[test]
    fn each_option_is_a_key() {
        let command = command();
        let args = command.get_arguments().filter(|arg| {
            let name = name(arg);
            !OF_THE_COMMAND_LINE.contains(&name) && name != APP
        });
        let mut seen = 0;
        for arg in args {
            // Wrong for all options with a value, and told by the parser of that option.
            let name = name(arg);
            let told = read(&[], &format!("\n{name} = [[1]]")).expect_err(name);
            assert!(told.starts_with(&format!("2: {name}: expected")), "{told}");
            seen += 1;
        }
        assert!(seen > 40, "{seen}");
        let known: Vec<_> = command.get_arguments().map(name).collect();
        for name in OF_A_ROUTE {
            assert!(known.contains(&name), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let route = "[[route]]\nroute = '/'\napp = 'a.wasm'\n";
        for (text, why) in [
            ("a = ", "1: "),
            ("a = 1\na = 2", "2: "),
            ("\n\ntimeuot = '5s'", "3: unknown key \"timeuot\""),
            ("timeout = '5 lightyears'", "1: timeout: expected a time"),
            (
                "timeout = true",
                "1: timeout: expected a string or a number",
            ),
            ("timeout = ['5s']", "1: timeout: expected one value"),
            ("watch = 'yes'", "1: watch: expected true or false"),
            ("mode = 'fibre'", "1: mode: expected one of process, thread"),
            ("env = ['A=1', '=2']", "1: env: expected NAME=VALUE"),
            ("max-headers = 0x7fff_ffff_ffff_ffff_f", "1: max-headers:"),
            ("config = 'x'", "1: it is for the command line alone"),
            ("[route]\nroute = '/'", "1: expected tables of routes"),
            ("route = 3", "1: expected tables of routes"),
            ("tls-cert = 'x.pem'", "0: "),
            (
                &format!("{route}addr = ['x:1']"),
                "4: \"addr\" is a setting of the server",
            ),
            (&format!("{route}tiemout = 3"), "4: unknown key \"tiemout\""),
            (
                &format!("{route}timeout = 0"),
                "4: timeout: expected a time",
            ),
            (
                &format!("\n{route}task = ['a=x', 'a=y']"),
                "2: --task a is given twice",
            ),
            ("[[route]]\napp = 'x'", "1: a route needs the key \"route\""),
            ("[[route]]\nroute = '/'", "1: a route needs the key \"app\""),
            (
                "[[route]]\nroute = 'x'\napp = 'x'",
                "2: \"x\" is not a route",
            ),
        ] {
            let told = read(&[], text).expect_err(text);
            assert!(told.starts_with(why), "{text}: {told}");
            assert_eq!(told.lines().count(), 1, "{told}");
        }
    }
}
