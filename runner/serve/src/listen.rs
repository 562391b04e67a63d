//! Where connections come from: TCP, a Unix socket, or sockets that systemd opened.

use crate::error::Error;
use crate::stream::Accepted;
use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, UnixListener};

/// A socket that is listened on.
///
/// Made in the context of a tokio runtime.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: Address,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// The file to remove, with its device and inode.
        file: Option<(PathBuf, (u64, u64))>,
    },
}

/// The address of a [`Listener`], as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// An address and a port.
    Tcp(SocketAddr),
    /// The path of a Unix socket; empty for one without a name.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listener {
    /// Listens on an address and port, written `HOST:PORT`; with port 0, the system chooses one
    /// ([`Listener::address`]).
    ///
    /// # Errors
    ///
    /// [`Error::Listen`].
    pub async fn tcp(address: &str) -> Result<Self, Error> {
        let failed = |source| listen_error(address, source);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        Listener::of_tcp(listener).map_err(failed)
    }

    fn of_tcp(listener: TcpListener) -> io::Result<Self> {
        let address = Address::Tcp(listener.local_addr()?);
        Ok(Listener {
            socket: Socket::Tcp(listener),
            address,
        })
    }

    /// Listens on a Unix socket, whose file is removed at the end. A socket that nothing listens
    /// on any more is replaced.
    ///
    /// # Errors
    ///
    /// [`Error::Listen`].
    pub fn unix(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let failed = |source| listen_error(&format!("unix:{}", path.display()), source);
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path) => {
                fs::remove_file(path).map_err(failed)?;
                UnixListener::bind(path)
            }
            bound => bound,
        };
        let listener = listener.map_err(failed)?;
        let file = identity(path)
            .ok()
            .map(|identity| (path.to_owned(), identity));
        Ok(Listener {
            socket: Socket::Unix { listener, file },
            address: Address::Unix(path.to_owned()),
        })
    }

    /// The sockets that a service manager opened for this process (`LISTEN_FDS`); none where
    /// there is no such manager. Only the first call gets them.
    ///
    /// # Errors
    ///
    /// [`Error::Listen`] for a descriptor that is not a socket for streams.
    pub fn inherited() -> Result<Vec<Self>, Error> {
        let mut sockets = listenfd::ListenFd::from_env();
        let mut listeners = Vec::new();
        for at in 0..sockets.len() {
            let failed = |source| listen_error(&format!("inherited socket {at}"), source);
            let listener = match sockets.take_tcp_listener(at) {
                Ok(Some(listener)) => {
                    listener.set_nonblocking(true).map_err(failed)?;
                    TcpListener::from_std(listener).and_then(Listener::of_tcp)
                }
                Ok(None) => continue,
                Err(_) => sockets.take_unix_listener(at).and_then(|listener| {
                    let listener =
                        listener.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
                    listener.set_nonblocking(true)?;
                    let address = listener.local_addr()?;
                    let path = address.as_pathname().unwrap_or(Path::new(""));
                    Ok(Listener {
                        address: Address::Unix(path.to_owned()),
                        socket: Socket::Unix {
                            listener: UnixListener::from_std(listener)?,
                            file: None,
                        },
                    })
                }),
            };
            listeners.push(listener.map_err(failed)?);
        }
        Ok(listeners)
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The next connection, and where it is from.
    pub(crate) async fn accept(&self) -> io::Result<(Accepted, Option<IpAddr>)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Answers are written whole: waiting for more would only delay them. It fails for
                // a client that is gone.
                let _ = stream.set_nodelay(true);
                Ok((Accepted::Tcp(stream), Some(peer.ip())))
            }
            Socket::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok((Accepted::Unix(stream), None))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::Unix {
            file: Some((path, made)),
            ..
        } = &self.socket
            && identity(path).is_ok_and(|now| now == *made)
        {
            let _ = fs::remove_file(path);
        }
    }
}

fn listen_error(address: &str, source: io::Error) -> Error {
    Error::Listen {
        address: address.to_owned(),
        source,
    }
}

/// A socket that nothing listens on.
fn is_abandoned(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket());
    let refused = || {
        let connected = std::os::unix::net::UnixStream::connect(path);
        connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    };
    is_socket && refused()
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_runtime<T>(made: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(made)
    }

    #[test]
    fn the_system_chooses_a_port() {
        in_runtime(async {
            let listener = Listener::tcp("127.0.0.1:0").await.expect("a port");
            let Address::Tcp(address) = listener.address() else {
                panic!("{listener:?}");
            };
            assert_ne!(address.port(), 0);
            let taken = Listener::tcp(&address.to_string()).await;
            assert!(matches!(taken, Err(Error::Listen { .. })));
        });
    }

    #[test]
    fn an_abandoned_socket_is_replaced_and_no_other_file() {
        in_runtime(async {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("socket");
            let first = Listener::unix(&path).expect("a socket");
            assert!(Listener::unix(&path).is_err(), "it is in use");
            drop(first);
            assert!(!path.exists());
            drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
            let second = Listener::unix(&path).expect("the socket was abandoned");
            drop(second);
            fs::write(&path, "a file").expect("written");
            assert!(Listener::unix(&path).is_err());
            assert!(path.exists());
        });
    }
}
