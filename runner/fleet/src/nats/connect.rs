//! A connection to NATS: addresses, credentials, TLS; also from the context files of the command
//! `nats`.

use crate::error::{Error, ErrorKind};
use async_nats::{Client, ConnectOptions, Event};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long connecting may take.
const CONNECTING: Duration = Duration::from_secs(10);
/// The longest pause between two attempts to connect again.
const RECONNECT_MOST: Duration = Duration::from_secs(4);
/// The longest file with a key, or of a context: 64 KiB.
const MAX_FILE: u64 = 64 << 10;

/// Whom the server takes the program for.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Auth {
    /// Nobody in particular.
    #[default]
    None,
    /// A file with a JWT and its key (`.creds`).
    Creds(PathBuf),
    /// A file with the seed of an NKey.
    NKey(PathBuf),
    /// A user and a password.
    User(String, String),
    /// A token.
    Token(String),
}

/// How to connect.
#[derive(Clone, Debug, Default)]
pub struct Connect {
    /// Addresses, `nats://HOST:PORT` or `tls://HOST:PORT`, with commas between them. A user and
    /// a password may be in it.
    pub url: String,
    /// Whom the server takes the program for.
    pub auth: Auth,
    /// A file with certificates of authorities, in PEM, beside those of the system.
    pub tls_ca: Option<PathBuf>,
    /// Files with a certificate and its key, for a server that asks for them.
    pub tls_client: Option<(PathBuf, PathBuf)>,
    /// The domain of JetStream, where a leaf node has one.
    pub domain: Option<String>,
}

/// A file of the command `nats`. It has more fields.
#[derive(Deserialize)]
struct ContextFile {
    #[serde(default)]
    url: String,
    #[serde(default)]
    token: String,
    #[serde(default)]
    user: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    creds: String,
    #[serde(default)]
    nkey: String,
    #[serde(default)]
    cert: String,
    #[serde(default)]
    key: String,
    #[serde(default)]
    ca: String,
    #[serde(default)]
    jetstream_domain: String,
}

impl Connect {
    /// The settings of a context file of the command `nats`: `name` is a path, or the name of one
    /// in `nats/context` below the directory of settings.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if there is none; [`ErrorKind::Invalid`] if it is not one.
    pub fn context(name: &str) -> Result<Self, Error> {
        let path = match name.contains('/') || name.ends_with(".json") {
            true => PathBuf::from(name),
            false => settings().join(format!("nats/context/{name}.json")),
        };
        let text = read(&path)?;
        let file: ContextFile = serde_json::from_str(&text).map_err(|error| {
            Error::invalid(format!(
                "{} is not a context of nats: {error}",
                path.display()
            ))
        })?;
        let some = |text: String| (!text.is_empty()).then_some(text);
        let auth = match file {
            ContextFile { ref creds, .. } if !creds.is_empty() => Auth::Creds(creds.into()),
            ContextFile { ref nkey, .. } if !nkey.is_empty() => Auth::NKey(nkey.into()),
            ContextFile { ref token, .. } if !token.is_empty() => Auth::Token(token.clone()),
            // As the command nats does: a user without a password is a token.
            ContextFile {
                ref user,
                ref password,
                ..
            } if !user.is_empty() => match password.is_empty() {
                true => Auth::Token(user.clone()),
                false => Auth::User(user.clone(), password.clone()),
            },
            _ => Auth::None,
        };
        let tls_client = some(file.cert).zip(some(file.key));
        Ok(Connect {
            url: some(file.url).unwrap_or_else(|| "nats://127.0.0.1:4222".into()),
            auth,
            tls_ca: some(file.ca).map(PathBuf::from),
            tls_client: tls_client.map(|(cert, key)| (cert.into(), key.into())),
            domain: some(file.jetstream_domain),
        })
    }

    /// Connects, and connects again whenever the connection is lost. `told` gets a line for each
    /// such change; it must not block.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] if no server answers; [`ErrorKind::Denied`] if it refuses;
    /// [`ErrorKind::Io`] and [`ErrorKind::Invalid`] for files with keys.
    pub async fn connect(
        &self,
        name: &str,
        told: impl Fn(String) + Send + Sync + 'static,
    ) -> Result<Client, Error> {
        let options = self.options()?.name(name).event_callback(move |event| {
            match event {
                Event::Disconnected => told("the connection to NATS is lost".into()),
                Event::Connected => told("connected to NATS".into()),
                Event::LameDuckMode => told("the server of NATS is going to end".into()),
                Event::ServerError(error) => told(format!("NATS says: {error}")),
                Event::ClientError(error) => told(format!("NATS: {error}")),
                _ => {}
            }
            async {}
        });
        let urls: Vec<&str> = self.url.split(',').map(str::trim).collect();
        let shown = shown(&self.url);
        for url in &urls {
            if let Err(error) = url.parse::<async_nats::ServerAddr>() {
                return Err(Error::invalid(format!(
                    "{shown} is not an address of NATS: {error}"
                )));
            }
        }
        let connecting = tokio::time::timeout(CONNECTING, options.connect(urls));
        let connected = connecting.await.map_err(|_| {
            let message = format!("cannot connect to {shown}: no answer within {CONNECTING:?}");
            Error::new(ErrorKind::Unavailable, message)
        })?;
        connected.map_err(|error| {
            let mut why = error.to_string();
            if why.contains("InvalidContentType") {
                why += ": the server does not speak TLS";
            }
            Error::server(&format!("connect to {shown}"), why)
        })
    }

    /// Reads the files with keys and certificates, as [`Connect::connect`] does.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] for one that cannot be read; [`ErrorKind::Invalid`] for one that does not
    /// have what it should.
    pub fn check(&self) -> Result<(), Error> {
        self.options().map(drop)
    }

    fn options(&self) -> Result<ConnectOptions, Error> {
        let mut options = ConnectOptions::new();
        options = match &self.auth {
            Auth::None => options,
            Auth::Creds(path) => options.credentials(&read(path)?).map_err(|error| {
                Error::invalid(format!("{} has no credentials: {error}", path.display()))
            })?,
            Auth::NKey(path) => {
                let seed = read(path)?.trim().to_owned();
                // The client would say so only after it has connected. The words of the error may
                // have parts of the file, which may be a secret.
                if nkeys::KeyPair::from_seed(&seed).is_err() {
                    let shown = path.display();
                    return Err(Error::invalid(format!("{shown} has no seed of an NKey")));
                }
                options.nkey(seed)
            }
            Auth::User(user, password) => options.user_and_password(user.clone(), password.clone()),
            Auth::Token(token) => options.token(token.clone()),
        };
        if let Some(path) = &self.tls_ca {
            if !read(path)?.contains("-----BEGIN CERTIFICATE-----") {
                let shown = path.display();
                return Err(Error::invalid(format!("{shown} has no certificate in PEM")));
            }
            options = options.add_root_certificates(path.clone());
        }
        if let Some((cert, key)) = &self.tls_client {
            read(cert)?;
            read(key)?;
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        Ok(options
            .connection_timeout(Duration::from_secs(5))
            .request_timeout(Some(super::REQUEST))
            .ping_interval(Duration::from_secs(15))
            .subscription_capacity(16 << 10)
            .reconnect_delay_callback(|attempts| {
                let pause = Duration::from_millis(50) * 2_u32.pow(attempts.min(8) as u32);
                pause.min(RECONNECT_MOST)
            }))
    }
}

/// An address without its password.
fn shown(url: &str) -> String {
    let one = |url: &str| match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            format!("{}://{}", &url[..scheme], &url[at + 1..])
        }
        _ => url.to_owned(),
    };
    url.split(',').map(one).collect::<Vec<_>>().join(",")
}

/// Where programs of this user keep their settings.
fn settings() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    match (variable("XDG_CONFIG_HOME"), variable("HOME")) {
        (Some(settings), _) => settings.into(),
        (None, Some(home)) => PathBuf::from(home).join(".config"),
        (None, None) => PathBuf::from("."),
    }
}

fn read(path: &Path) -> Result<String, Error> {
    let shown = path.display();
    let io = |why: String| Error::new(ErrorKind::Io, format!("cannot read {shown}: {why}"));
    let length = std::fs::metadata(path)
        .map_err(|error| io(error.to_string()))?
        .len();
    if length > MAX_FILE {
        return Err(io(format!(
            "it has {length} bytes, and at most {MAX_FILE} are allowed"
        )));
    }
    std::fs::read_to_string(path).map_err(|error| io(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(shown("nats://u:secret@h:1,tls://k"), "nats://h:1,tls://k");
        assert_eq!(shown("h:1"), "h:1");
    }

    #[test]
    fn contexts_of_nats_are_read() {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = scratch.path().join("c.json");
        let write = |text: &str| std::fs::write(&path, text).expect("written");
        let read = || Connect::context(path.to_str().expect("a path"));
        write(
            r#"{"description": "", "url": "nats://h:1", "user": "u", "password": "p", "ca": "/ca"}"#,
        );
        let connect = read().expect("a context");
        assert_eq!(connect.url, "nats://h:1");
        assert!(matches!(connect.auth, Auth::User(user, _) if user == "u"));
        assert_eq!(connect.tls_ca, Some("/ca".into()));
        write(r#"{"user": "token"}"#);
        assert!(matches!(read().expect("a context").auth, Auth::Token(token) if token == "token"));
        write("{");
        assert_eq!(read().expect_err("no context").kind(), ErrorKind::Invalid);
        assert_eq!(
            Connect::context("no-such").expect_err("none").kind(),
            ErrorKind::Io
        );
    }
}
