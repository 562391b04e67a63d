//! Prints its arguments and its environment, one a line: what a command was
//! given, and that it was given nothing else.

fn main() {
    // Not the first argument: it is the guest's own name, whatever the host
    // makes of it.
    for argument in std::env::args().skip(1) {
        println!("arg {argument}");
    }
    let mut variables: Vec<_> = std::env::vars().collect();
    variables.sort();
    for (name, value) in variables {
        println!("env {name}={value}");
    }
}
