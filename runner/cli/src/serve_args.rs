//! The command line of `wrun serve`: what clap parses and `--help` prints.

use super::grant_args::{Grants, TaskFile};
use super::limit_args::{ChildArgs, CompilingArgs};
use super::log::LogArgs;
use super::process::{PoolArgs, WallArgs};
use super::serve_config::{ConfigFile, Values};
use super::values::{duration, grace, one_of, size, whole};
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueHint};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use wrun::{Limits, Mode, Preemption};
use wrun_serve::{AccessFormat, App, ClientLimits, Pattern};

pub(super) const SERVE_EXAMPLES: &str = "\
Examples:
  wrun serve shop.wasm                       on http://127.0.0.1:8080
  wrun serve --addr 127.0.0.1:0 --mode thread shop.wasm  on a port that the system chooses
  wrun serve --route /api=api.wasm --route /=site.wasm
  wrun serve --tls-cert cert.pem --tls-key key.pem --addr 0.0.0.0:443 shop.wasm
  wrun serve --watch --debug-errors shop.wasm            for development
  wrun serve --admin 127.0.0.1:9090 --access-log json shop.wasm
  wrun serve --config wrun.toml                          routes with limits of their own

Each request is a task of its own, behind the walls of --mode, with the limits and grants
given here. A task that traps or exceeds a limit is answered with 500, one that takes
longer than --timeout with 504, one whose process dies with 502; beyond --max-queued,
requests are answered with 503.

The file of --config has these options as keys: max-queued = 64 is --max-queued 64. Each
[[route]] in it has an app and may have limits and grants of its own. An option of the command
line replaces the key of its name, for all routes.

Traces go to an OpenTelemetry collector if OTEL_EXPORTER_OTLP_ENDPOINT names one.

WRUN_CACHE_DIR is the directory for compiled code
[default: $XDG_CACHE_HOME/wrun, or ~/.cache/wrun]. WRUN_LOG is the default of --log.

SIGTERM and Ctrl-C: no more connections are accepted, and the requests that are there
have --grace to finish; a second one ends them. SIGHUP: the files are loaded again, and
answer all new requests if they can be served; otherwise the old ones go on.

Exit status: 0 ended by a signal, with all requests answered; 1 the trial request of
--try failed; 2 usage; 125 wrun failed, or cannot listen; 126 not an HTTP component;
127 no such file; 130, 143 requests had to be cut at the end.";

/// `wrun serve`.
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// Where each request runs: `process` or `thread`
    #[arg(long, value_name = "MODE", default_value = "process", value_parser = one_of::<Mode>(&["process", "thread"]))]
    pub(crate) mode: Mode,

    /// How a task that computes is interrupted in thread mode: `epoch` (by checks in its code,
    /// which slow it down) or `signal` (by SIGURG; a task that computes gets a thread).
    /// Process mode needs no checks
    #[arg(long, value_name = "HOW", default_value = "epoch", value_parser = one_of::<Preemption>(&["epoch", "signal"]))]
    pub(crate) preempt: Preemption,

    /// Listen on this address; with port 0 the system chooses one, which is printed; repeat
    /// for more [default: 127.0.0.1:8080, unless there is --unix or a socket of the service
    /// manager]
    #[arg(long, value_name = "HOST:PORT", value_parser = super::serve::address)]
    pub(crate) addr: Vec<String>,

    /// Listen on a Unix socket of this name; repeat for more
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) unix: Vec<PathBuf>,

    /// Read options from FILE, in TOML: the keys are the names of options, and each [[route]] has
    /// an app with limits and grants of its own. SIGHUP and --watch read its routes again
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,

    /// Have FILE answer requests for this host (or all) whose path begins with this prefix; a
    /// host and the longest prefix come first; repeat for more
    #[arg(long, value_name = "[HOST]/PREFIX=FILE", value_hint = ValueHint::FilePath, value_parser = OsStringValueParser::new().try_map(|text: OsString| RouteFile::try_from(&*text)))]
    pub(crate) route: Vec<RouteFile>,

    /// Answer with TLS: a certificate in PEM, with those of its issuers behind it
    #[arg(long, value_name = "FILE", requires = "tls_key", value_hint = ValueHint::FilePath)]
    pub(crate) tls_cert: Option<PathBuf>,

    /// The private key of --tls-cert, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert", value_hint = ValueHint::FilePath)]
    pub(crate) tls_key: Option<PathBuf>,

    /// Answer /healthz, /readyz and /metrics on this address, to anyone who can reach it
    #[arg(long, value_name = "HOST:PORT", value_parser = super::serve::address)]
    pub(crate) admin: Option<String>,

    /// Write a line to stdout for each request: `combined`, `json` or `off`
    #[arg(long, value_name = "FORMAT", default_value = "off", value_parser = one_of::<AccessLog>(&["combined", "json", "off"]))]
    pub(crate) access_log: AccessLog,

    /// Say in error answers why: for development, since it tells clients about the inside
    #[arg(long)]
    pub(crate) debug_errors: bool,

    /// Reload when a file changes, as SIGHUP does
    #[arg(long)]
    pub(crate) watch: bool,

    /// Request this path of an app before it is served, at the start and at each reload, and
    /// refuse it if the status is 500 or above
    #[arg(long = "try", value_name = "PATH", value_parser = path_of_a_request)]
    pub(crate) trial: Option<String>,

    /// How long requests may take to finish after SIGTERM or Ctrl-C
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = grace)]
    pub(crate) grace: Duration,

    /// End the task of a request after this time, from the first byte of the request to the
    /// last of the answer; `none` for no limit
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = unless_none(duration))]
    pub(crate) timeout: Unless<Duration>,

    /// End the task of a request after N units of fuel, about one per instruction
    #[arg(long, value_name = "N", value_parser = whole::<u64>(1..=u64::MAX))]
    pub(crate) fuel: Option<u64>,

    /// Limit the linear memory of the task of a request [default: 512MiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) max_memory: Option<u64>,

    /// Limit the body of an answer [default: unlimited]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) max_output: Option<u64>,

    /// Answer at most N requests at the same time [default: 4 for each processor in process
    /// mode, 512 in thread mode]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1..=1 << 20))]
    pub(crate) max_running: Option<usize>,

    /// Let at most N more requests wait; beyond that, they are answered with 503
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = whole::<usize>(0..=1 << 24))]
    pub(crate) max_queued: usize,

    #[command(flatten)]
    pub(crate) grants: Grants,

    #[command(flatten)]
    pub(crate) children: ChildArgs,

    /// How long a client may take to send the header of a request
    #[arg(long, value_name = "TIME", default_value = "10s", help_heading = CLIENTS, value_parser = duration)]
    pub(crate) header_timeout: Duration,

    /// How long a client may send nothing of a body that the app waits for
    #[arg(long, value_name = "TIME", default_value = "30s", help_heading = CLIENTS, value_parser = duration)]
    pub(crate) body_timeout: Duration,

    /// How long a client may take nothing of an answer
    #[arg(long, value_name = "TIME", default_value = "30s", help_heading = CLIENTS, value_parser = duration)]
    pub(crate) send_timeout: Duration,

    /// How long a connection may be open without a request
    #[arg(long, value_name = "TIME", default_value = "60s", help_heading = CLIENTS, value_parser = duration)]
    pub(crate) keep_alive: Duration,

    /// Limit the header of a request: 8KiB or more
    #[arg(long, value_name = "SIZE", default_value = "32KiB", help_heading = CLIENTS, value_parser = header_size)]
    pub(crate) max_header: u32,

    /// Limit the header fields of a request
    #[arg(long, value_name = "N", default_value_t = 100, help_heading = CLIENTS, value_parser = whole::<usize>(1..=ClientLimits::MAX_HEADERS as u64))]
    pub(crate) max_headers: usize,

    /// Limit the body of a request; `none` for no limit
    #[arg(long, value_name = "SIZE", default_value = "64MiB", help_heading = CLIENTS, value_parser = unless_none(size))]
    pub(crate) max_body: Unless<u64>,

    /// Limit the connections at the same time; others wait
    #[arg(long, value_name = "N", default_value_t = 10_000, help_heading = CLIENTS, value_parser = whole::<usize>(1..=1 << 20))]
    pub(crate) max_connections: usize,

    /// Limit the requests of one HTTP/2 connection at the same time
    #[arg(long, value_name = "N", default_value_t = 100, help_heading = CLIENTS, value_parser = whole::<u32>(1..=10_000))]
    pub(crate) max_streams: u32,

    #[command(flatten)]
    pub(crate) compiling: CompilingArgs,

    /// Accept an artifact of `wrun compile`: native code, which cannot be verified
    #[arg(long)]
    pub(crate) allow_precompiled: bool,

    /// Do not read or write the cache of compiled code
    #[arg(long)]
    pub(crate) no_cache: bool,

    #[command(flatten)]
    pub(crate) log: LogArgs,

    #[command(flatten)]
    pub(crate) walls: WallArgs,

    #[command(flatten)]
    pub(crate) pool: PoolArgs,

    /// The app: a component that exports wasi:http/incoming-handler
    #[arg(value_name = "APP", required_unless_present_any = ["route", "config"], value_hint = ValueHint::FilePath)]
    pub(crate) app: Option<PathBuf>,

    /// The routes of --config.
    #[arg(skip)]
    pub(crate) routes: Vec<ServedRoute>,

    /// What --config says that only a new start takes.
    #[arg(skip)]
    pub(crate) of_the_start: Values,

    /// The file of --config, which a reload reads again.
    #[arg(skip)]
    pub(crate) config_file: Option<ConfigFile>,
}

/// An app with limits and grants of its own.
#[derive(Debug)]
pub(crate) struct ServedRoute {
    pub(crate) pattern: Pattern,
    pub(crate) file: PathBuf,
    /// Of these, what concerns an app.
    pub(crate) args: Box<ServeArgs>,
}

impl ServeArgs {
    /// All apps with the requests that they answer.
    pub(super) fn apps(&self) -> Vec<(Pattern, App)> {
        let everywhere = self.app.iter().map(|file| (Pattern::any(), file));
        let routes = self.route.iter().map(|it| (it.pattern.clone(), &it.file));
        let mut apps: Vec<_> = everywhere
            .chain(routes)
            .map(|(pattern, file)| (pattern, self.served(file)))
            .collect();
        let own = self.routes.iter();
        apps.extend(own.map(|it| (it.pattern.clone(), it.args.served(&it.file))));
        apps
    }

    /// The app in this file, with these limits and grants.
    fn served(&self, file: &Path) -> App {
        let mut app = App::new(file)
            .limits(self.limits())
            .max_body(self.max_body.0)
            .trusted(self.allow_precompiled);
        for grant in &self.grants.dir {
            app = app.dir(grant.clone());
        }
        for (key, value) in self.grants.env.iter().cloned() {
            app = app.env(key, value);
        }
        for grant in &self.grants.allow_tcp {
            app = app.allow_tcp(grant.clone());
        }
        for grant in &self.grants.allow_http {
            app = app.allow_http(grant.clone());
        }
        for TaskFile { name, file } in &self.grants.children.task {
            app = app.task(name, file);
        }
        app
    }

    /// The arguments that concern each app: these, and those of routes.
    pub(super) fn of_apps(&self) -> impl Iterator<Item = &ServeArgs> {
        let routes = self.routes.iter().map(|route| &*route.args);
        std::iter::once(self).chain(routes)
    }

    /// The files that it reads.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let granted = self.of_apps().flat_map(|args| args.grants.files());
        let routes = self.route.iter().map(|route| &*route.file);
        let routes = routes.chain(self.routes.iter().map(|route| &*route.file));
        let own = [&self.app, &self.config, &self.tls_cert, &self.tls_key];
        let own = own.into_iter().filter_map(Option::as_deref);
        own.chain(routes).chain(granted)
    }

    /// The limits of each request.
    pub(super) fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.timeout = self.timeout.0;
        limits.fuel = self.fuel;
        limits.max_memory = self.max_memory.unwrap_or(limits.max_memory);
        self.children.apply(&mut limits);
        limits.max_output = self.max_output;
        limits
    }
}

/// The heading of what clients may take.
const CLIENTS: &str = "Clients";

/// A value, or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unless<T>(pub(crate) Option<T>);

fn unless_none<T: Clone + Send + Sync + 'static>(
    parse: fn(&str) -> Result<T, String>,
) -> impl TypedValueParser<Value = Unless<T>> {
    move |text: &str| match text {
        "none" => Ok(Unless(None)),
        text => match parse(text) {
            Ok(value) => Ok(Unless(Some(value))),
            Err(why) => Err(format!("{why}, or `none`")),
        },
    }
}

/// The form of the access log, if there is one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccessLog(pub(crate) Option<AccessFormat>);

impl FromStr for AccessLog {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(AccessLog(match text {
            "off" => None,
            format => Some(format.parse()?),
        }))
    }
}

/// An app and the requests that it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteFile {
    pub(crate) pattern: Pattern,
    pub(crate) file: PathBuf,
}

impl TryFrom<&OsStr> for RouteFile {
    type Error = String;

    fn try_from(text: &OsStr) -> Result<Self, String> {
        let bytes = text.as_bytes();
        let Some(at) = bytes.iter().position(|byte| *byte == b'=') else {
            return Err("there is no `=`: it is written [HOST]/PREFIX=FILE".into());
        };
        let (pattern, file) = (&bytes[..at], &bytes[at + 1..]);
        let Ok(pattern) = std::str::from_utf8(pattern) else {
            return Err("host and prefix must be ASCII; the file's name need not".into());
        };
        if file.is_empty() {
            return Err("there is no file after the `=`: it is written [HOST]/PREFIX=FILE".into());
        }
        let pattern = pattern.parse::<Pattern>();
        Ok(RouteFile {
            pattern: pattern.map_err(|error| error.to_string())?,
            file: OsStr::from_bytes(file).into(),
        })
    }
}

/// What can be requested of a server.
fn path_of_a_request(text: &str) -> Result<String, String> {
    let is_path = text.starts_with('/') && text.chars().all(|c| c.is_ascii_graphic());
    match is_path {
        true => Ok(text.to_owned()),
        false => Err("expected a path that begins with a slash".into()),
    }
}

fn header_size(text: &str) -> Result<u32, String> {
    let (least, most) = (ClientLimits::MIN_HEADER_SIZE, 1 << 20);
    let size = u32::try_from(size(text)?).ok();
    let size = size.filter(|size| (least..=most).contains(size));
    size.ok_or_else(|| "expected a size from 8KiB to 1MiB".into())
}

#[cfg(test)]
mod tests {
    use super::super::args::{Cli, Command};
    use super::*;
    use clap::Parser;

    #[test]
    fn routes_of_apps() {
        let parse = |text: &[u8]| RouteFile::try_from(OsStr::from_bytes(text));
        let parsed = parse(b"a.org/b=c=d.wasm").expect("a route");
        assert_eq!(parsed.pattern, "a.org/b".parse().expect("a pattern"));
        assert_eq!(parsed.file, PathBuf::from("c=d.wasm"));
        for bad in ["", "/a", "/a=", "a=b", "=b", "a b/=c"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let file = parse(b"/=\xff.wasm").expect("a file's name").file;
        assert_eq!(file.as_os_str().as_bytes(), b"\xff.wasm");
    }

    #[test]
    fn what_serve_takes() {
        let serve = |args: &[&str]| {
            let args = ["wrun", "serve"].iter().chain(args);
            match Cli::try_parse_from(args).map(|cli| cli.command) {
                Ok(Some(Command::Serve(args))) => Some(args),
                _ => None,
            }
        };
        let args = serve(&["a.wasm"]).expect("an app");
        assert_eq!(args.timeout, Unless(Some(Duration::from_secs(30))));
        assert_eq!(args.max_body, Unless(Some(64 << 20)));
        let args = serve(&["--timeout", "none", "--max-body", "none", "a.wasm"]);
        let args = args.expect("no limits");
        assert_eq!((args.timeout, args.max_body), (Unless(None), Unless(None)));
        assert!(serve(&["--route", "/=a.wasm"]).is_some());
        for bad in [
            &[][..],
            &["--addr", "8080", "a.wasm"],
            &["--addr", "a:b:1", "a.wasm"],
            &["--tls-cert", "x.pem", "a.wasm"],
            &["--max-header", "1KiB", "a.wasm"],
            &["--timeout", "0", "a.wasm"],
            &["--access-log", "xml", "a.wasm"],
            &["--try", "x", "a.wasm"],
        ] {
            assert!(serve(bad).is_none(), "{bad:?}");
        }
    }
}
