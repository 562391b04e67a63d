//! The options that say how to connect to NATS.

use super::{Failure, exit};
use clap::{Args, ValueHint};
use std::path::{Path, PathBuf};
use wrun_fleet::{Auth, Connect, Error, ErrorKind};

const HEADING: &str = "Connection";
/// The variable with a password, which an option would show to other users of the machine.
const PASSWORD: &str = "WRUN_NATS_PASSWORD";
/// The longest file with a password.
const MAX_PASSWORD: u64 = 4096;

/// Whom NATS takes wrun for.
#[derive(Args, Clone, Debug)]
pub(crate) struct NatsArgs {
    /// Connect as this context of the command `nats` says: its name, or its file
    #[arg(long, value_name = "NAME", help_heading = HEADING)]
    pub(crate) context: Option<String>,

    /// A file with a JWT and its key
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = HEADING, conflicts_with_all = ["nkey", "user"])]
    pub(crate) creds: Option<PathBuf>,

    /// A file with the seed of an NKey
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = HEADING, conflicts_with = "user")]
    pub(crate) nkey: Option<PathBuf>,

    /// A user, with the password in --password-file or in WRUN_NATS_PASSWORD
    #[arg(long, value_name = "NAME", help_heading = HEADING)]
    pub(crate) user: Option<String>,

    /// A file with the password of --user
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = HEADING, requires = "user")]
    pub(crate) password_file: Option<PathBuf>,

    /// A file with certificates of authorities, in PEM, beside those of the system
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = HEADING)]
    pub(crate) tls_ca: Option<PathBuf>,
}

impl NatsArgs {
    /// How to connect, to this address if there is one.
    pub(super) fn connect(&self, url: Option<&str>) -> Result<Connect, Failure> {
        let mut connect = match &self.context {
            Some(name) => Connect::context(name).map_err(|error| of_option("--context", &error))?,
            None => Connect::default(),
        };
        if let Some(url) = url {
            connect.url = url.to_owned();
        } else if connect.url.is_empty() {
            connect.url = std::env::var("NATS_URL").unwrap_or_default();
        }
        if connect.url.is_empty() {
            return Err(Failure::new(
                exit::USAGE,
                "no address of NATS: expected --nats nats://HOST:PORT, --context, or NATS_URL",
            ));
        }
        // What is wrong with a file is said before anything connects, with its option.
        let checked = |connect: &Connect, option: &str| {
            connect.check().map_err(|error| of_option(option, &error))
        };
        if self.context.is_some() {
            checked(&connect, "--context")?;
        }
        if let Some(path) = &self.creds {
            connect.auth = Auth::Creds(path.clone());
            checked(&connect, "--creds")?;
        }
        if let Some(path) = &self.nkey {
            connect.auth = Auth::NKey(path.clone());
            checked(&connect, "--nkey")?;
        }
        if let Some(user) = &self.user {
            connect.auth = Auth::User(user.clone(), self.password()?);
        }
        if self.tls_ca.is_some() {
            connect.tls_ca = self.tls_ca.clone();
            checked(&connect, "--tls-ca")?;
        }
        Ok(connect)
    }

    fn password(&self) -> Result<String, Failure> {
        let Some(path) = &self.password_file else {
            return std::env::var(PASSWORD).map_err(|_| {
                let message = format!("--user needs --password-file, or {PASSWORD}");
                Failure::new(exit::USAGE, message)
            });
        };
        let text = read_short(path).map_err(|error| {
            let message = format!("--password-file: cannot read {}: {error}", path.display());
            Failure::new(exit::USAGE, message)
        })?;
        Ok(text.trim_end_matches(['\n', '\r']).to_owned())
    }
}

fn read_short(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    file.take(MAX_PASSWORD).read_to_string(&mut text)?;
    Ok(text)
}

/// What is wrong with the file of an option.
fn of_option(option: &str, error: &Error) -> Failure {
    Failure::new(exit::USAGE, format!("{option}: {error}"))
}

/// The exit code and the message of an error.
pub(super) fn failure(error: Error) -> Failure {
    let code = match error.kind() {
        ErrorKind::Invalid => exit::USAGE,
        ErrorKind::NotFound => exit::NOT_FOUND,
        _ => exit::RUNNER,
    };
    Failure::new(code, error.to_string())
}
