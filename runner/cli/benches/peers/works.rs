//! The inputs of all rows, and the expected outputs, computed here without the guests.

use anyhow::ensure;
use std::path::Path;

/// The SHA-256 of the large input, as `sha256sum` computes it.
const LARGE_DIGEST: &str = "20a5717269b2abfae29a13ce9a4241a1f92e2ef71e234d18ef92e8de55b19173";

const SIDE: u32 = 256;
const LIMIT: u32 = 200;

/// The names of the timed work, which are also those of the inputs.
pub(crate) const TIMED: [&str; 3] = ["small", "compute", "large"];

/// An input by its name in [`INPUTS`](crate::protocol::INPUTS).
pub(crate) fn input(name: &str) -> Vec<u8> {
    let pattern = |first: u8, length: u32| -> Vec<u8> {
        let rest = (1..length).map(|at| u8::try_from((at * 31 + 7) % 251).unwrap_or_default());
        std::iter::once(first).chain(rest).collect()
    };
    match name {
        "small" => pattern(b'e', 64),
        "compute" => format!("m{SIDE:04}{SIDE:04}{LIMIT:04}").into_bytes(),
        "large" => pattern(b's', 1 << 20),
        _ => b"c".to_vec(),
    }
}

/// Refuses a wrong output.
pub(crate) fn check(name: &str, output: &[u8]) -> anyhow::Result<()> {
    let right = match name {
        "small" => output == input(name),
        "compute" => output == mandelbrot(),
        _ => hex(output) == LARGE_DIGEST,
    };
    ensure!(right, "a wrong output of {name}: {} bytes", output.len());
    Ok(())
}

/// The inputs and guests, in a folder.
pub(crate) fn prepare(folder: &Path) -> anyhow::Result<()> {
    for name in crate::protocol::INPUTS {
        std::fs::write(folder.join(name), input(name))?;
    }
    for name in ["work", "work-command", "work-extism"] {
        let file = format!("{name}.wasm");
        let guests = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-tasks"));
        std::fs::copy(guests.join(name).join(&file), folder.join(&file))?;
    }
    Ok(())
}

/// Bytes from hexadecimal digits.
pub(crate) fn bytes(digits: &str) -> anyhow::Result<Vec<u8>> {
    ensure!(
        digits.is_ascii() && digits.len().is_multiple_of(2),
        "expected hexadecimal digits"
    );
    let bytes = (0..digits.len()).step_by(2);
    bytes
        .map(|at| Ok(u8::from_str_radix(&digits[at..at + 2], 16)?))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn mandelbrot() -> Vec<u8> {
    let at = |index: u32| f64::from(index) * 3.0 / f64::from(SIDE - 1);
    let points = (0..SIDE * SIDE).map(|index| {
        let (re, im) = (at(index % SIDE) - 2.0, at(index / SIDE) - 1.5);
        let (mut x, mut y) = (0.0_f64, 0.0_f64);
        for step in 0..LIMIT {
            if x * x + y * y > 4.0 {
                return u8::try_from(255 - step * 255 / LIMIT).unwrap_or_default();
            }
            (x, y) = (x * x - y * y + re, 2.0 * x * y + im);
        }
        0
    });
    points.collect()
}
