//! The output of apps, line by line, for the operator of the server.

use std::sync::Arc;
use wrun::OutputStream;

/// Bytes of a line; more begin another one.
const MAX_LINE: usize = 4 << 10;
/// Bytes that one request may print; the rest is thrown away.
const MAX_PRINTED: usize = 64 << 10;

/// A line that the task of a request printed, to stdout or stderr.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Printed<'a> {
    /// The app, by the name of its route.
    pub route: &'a str,
    /// The task's id, as in the access log.
    pub task_id: u64,
    /// The line, without its end. The app's own words: do not trust them.
    pub line: &'a str,
}

/// Takes what apps print.
pub(crate) type Take = Arc<dyn Fn(&Printed<'_>) + Send + Sync>;

/// Passes on what one task prints, until it ends.
pub(crate) async fn pass_on(mut output: OutputStream, route: Arc<str>, task_id: u64, take: Take) {
    let line = |line: &[u8]| {
        take(&Printed {
            route: &route,
            task_id,
            line: &String::from_utf8_lossy(line),
        });
    };
    let mut rest = Vec::new();
    let mut left = MAX_PRINTED;
    while let Some(chunk) = output.next_chunk().await {
        if left == 0 {
            continue;
        }
        let chunk = &chunk[..chunk.len().min(left)];
        left -= chunk.len();
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            rest.extend_from_slice(part);
            while rest.len() > MAX_LINE {
                let more = rest.split_off(MAX_LINE);
                line(&rest);
                rest = more;
            }
            if let Some(whole) = rest.strip_suffix(b"\n") {
                line(whole.strip_suffix(b"\r").unwrap_or(whole));
                rest.clear();
            }
        }
        if left == 0 {
            line(&rest);
            rest.clear();
            line(b"(it prints more, which is not shown)");
        }
    }
    if !rest.is_empty() {
        line(&rest);
    }
}
