//! Why a request that a guest sends has no response.

use serde::{Deserialize, Serialize};

/// See the [module](self).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum FetchError {
    #[error("the destination is not granted")]
    Denied,
    #[error("the URL is not one of an HTTP server")]
    Url,
    #[error("requests with this method cannot be sent")]
    Method,
    #[error("the name of the host cannot be resolved")]
    Name,
    #[error("the connection was refused")]
    Refused,
    #[error("the destination cannot be reached")]
    Unreachable,
    #[error("there was no connection in time")]
    ConnectTimeout,
    #[error("there was no response in time")]
    HeadTimeout,
    #[error("the certificate of the server is not accepted")]
    Certificate,
    #[error("TLS failed")]
    Tls,
    #[error("the connection ended before the response")]
    Ended,
    #[error("the server did not answer as HTTP requires")]
    Protocol,
    #[error("the head of the response is too large")]
    HeadTooLarge,
    #[error("too many requests of this task are open")]
    TooMany,
    #[error("the runner cannot send it")]
    Runner,
}
