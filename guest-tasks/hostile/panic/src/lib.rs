//! A panic in a guest: the message goes to stderr, then the guest traps.

wit_bindgen::generate!({ path: "../../../wit", world: "wrun:task/task", generate_all });

struct Task;

impl Guest for Task {
    fn run(input: Vec<u8>) -> Result<Vec<u8>, String> {
        panic!("this guest panics on {} bytes of input", input.len());
    }
}

export!(Task);
