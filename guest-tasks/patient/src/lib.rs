//! Sleeps until it is cancelled, and says so: cooperative cancellation without
//! a busy loop. The input may hold a number of milliseconds to give up after.

wit_bindgen::generate!({ path: "../../wit", world: "wrun:task/task", generate_all });

use wasi::clocks::monotonic_clock;
use wasi::io::poll::poll;
use wrun::task::context;

struct Task;

impl Guest for Task {
    fn run(input: Vec<u8>) -> Result<Vec<u8>, String> {
        let text = String::from_utf8_lossy(&input);
        let patience = match text.trim() {
            "" => None,
            number => Some(
                number
                    .parse::<u64>()
                    .map_err(|_| format!("'{number}' is not a number of milliseconds"))?,
            ),
        };
        let end =
            patience.map(|ms| monotonic_clock::now().saturating_add(ms.saturating_mul(1_000_000)));
        let stop = context::subscribe_cancelled();
        while !context::cancelled() {
            match end {
                None => {
                    poll(&[&stop]);
                }
                Some(end) if monotonic_clock::now() < end => {
                    poll(&[&stop, &monotonic_clock::subscribe_instant(end)]);
                }
                Some(_) => return Ok(b"nobody cancelled\n".to_vec()),
            }
        }
        Ok(b"cancelled in time\n".to_vec())
    }
}

export!(Task);
