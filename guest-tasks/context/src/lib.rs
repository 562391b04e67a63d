//! What a task learns about itself, and how it reports progress.

wit_bindgen::generate!({ path: "../../wit", world: "wrun:task/task", generate_all });

use wrun::task::context;

struct Task;

impl Guest for Task {
    fn run(input: Vec<u8>) -> Result<Vec<u8>, String> {
        let info = context::info();
        let total = input.len() as u64;
        let mut sum = 0u64;
        let mut done = 0;
        context::progress(0, Some(total));
        for block in input.chunks(1024) {
            // A long task asks between blocks, not between bytes: a call to
            // the host is cheap, but not as cheap as an addition.
            if context::cancelled() {
                return Err(format!("cancelled after {done} of {total} bytes"));
            }
            sum += block.iter().map(|&byte| u64::from(byte)).sum::<u64>();
            done += block.len() as u64;
            context::progress(done, Some(total));
        }
        // Neither the mode, the id nor the time: the output must be the same
        // wherever the task runs.
        Ok(format!(
            "name {}\nattempt {}\ndeadline {}\nbytes {total}\nsum {sum}\n",
            info.name,
            info.attempt,
            if info.remaining_ns.is_some() {
                "yes"
            } else {
                "no"
            },
        )
        .into_bytes())
    }
}

export!(Task);
