//! Bodies that attract each other, moved step by step. Each task moves its part of them;
//! all see all of them in a shared region, and wait for each other after each step. A
//! step reads one copy of the bodies and writes the other.
//!
//! What is added up is added in the same order, however many tasks there are: the result
//! is the same to the last bit.

use crate::{DIGEST, MOST, WORKER, digest, give, next, outputs, parent, within};
use wrun_guest::{Barrier, Message, Shared, start};

/// Position, velocity, mass.
type Body = [f64; 7];
const BODY: u64 = 56;

/// Where the two copies of the bodies begin: behind the barrier.
const BODIES: u64 = 64;
const STEP: f64 = 1e-3;
/// Keeps those that meet from flying apart.
const SOFT: f64 = 1e-2;

fn read(region: &Shared, copy: u64, count: u64) -> Result<Vec<Body>, String> {
    let bytes = region.read(BODIES + copy * count * BODY, count * BODY)?;
    let (numbers, _) = bytes.as_chunks::<8>();
    let (bodies, _) = numbers.as_chunks::<7>();
    Ok(bodies
        .iter()
        .map(|body| body.map(f64::from_le_bytes))
        .collect())
}

fn write(
    region: &Shared,
    copy: u64,
    count: u64,
    first: u64,
    bodies: &[Body],
) -> Result<(), String> {
    let bytes: Vec<u8> = bodies
        .iter()
        .flatten()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    Ok(region.write(BODIES + (copy * count + first) * BODY, &bytes)?)
}

pub(crate) fn bodies([workers, count, steps]: [u64; 3]) -> Result<Vec<u8>, String> {
    within("WORKERS", workers, 1..=MOST)?;
    within("BODIES", count, workers..=4096)?;
    within("STEPS", steps, 0..=1_000_000)?;
    let region = Shared::new(BODIES + 2 * count * BODY)?;
    let mut state = 1;
    let mut chance = || (next(&mut state) >> 11) as f64 / (1_u64 << 53) as f64 - 0.5;
    let bodies: Vec<Body> = (0..count)
        .map(|_| {
            let mut body = [0.0; 7].map(|_: f64| chance());
            body[6] = (body[6] + 1.0) / count as f64;
            body
        })
        .collect();
    write(&region, 0, count, 0, &bodies)?;
    let before = energy(&bodies);
    let mut children = Vec::new();
    for part in 0..workers {
        let input = format!("move {workers} {part} {count} {steps}");
        let worker = start(WORKER, input.as_bytes(), 1)?;
        give(&worker, Message::default().region(region.duplicate()?))?;
        children.push(worker);
    }
    outputs(&children)?;
    let bodies = read(&region, steps % 2, count)?;
    let digest = digest(
        DIGEST,
        bodies.iter().flatten().map(|number| number.to_bits()),
    );
    Ok(format!(
        "{count} bodies, {steps} steps; energy {before:.9} then {:.9}; {digest:016x}\n",
        energy(&bodies)
    )
    .into_bytes())
}

pub(crate) fn r#move([workers, part, count, steps]: [u64; 4]) -> Result<Vec<u8>, String> {
    within("PART", part, 0..=workers.saturating_sub(1))?;
    let region = parent()?.receive()?.shared()?;
    let barrier = Barrier::new(&region, 0, workers as u32)?;
    let (first, end) = (part * count / workers, (part + 1) * count / workers);
    for step in 0..steps {
        let all = read(&region, step % 2, count)?;
        let moved: Vec<Body> = all[first as usize..end as usize]
            .iter()
            .map(|body| step_of(body, &all))
            .collect();
        write(&region, (step + 1) % 2, count, first, &moved)?;
        barrier.wait();
    }
    Ok(vec![])
}

fn step_of(body: &Body, all: &[Body]) -> Body {
    let mut pull = [0.0; 3];
    for other in all {
        let apart = [other[0] - body[0], other[1] - body[1], other[2] - body[2]];
        let square = apart[0] * apart[0] + apart[1] * apart[1] + apart[2] * apart[2] + SOFT;
        let strength = other[6] / (square * square.sqrt());
        for axis in 0..3 {
            pull[axis] += apart[axis] * strength;
        }
    }
    let mut moved = *body;
    for axis in 0..3 {
        moved[3 + axis] += pull[axis] * STEP;
        moved[axis] += moved[3 + axis] * STEP;
    }
    moved
}

fn energy(bodies: &[Body]) -> f64 {
    let mut energy = 0.0;
    for (at, one) in bodies.iter().enumerate() {
        energy += 0.5 * one[6] * (one[3] * one[3] + one[4] * one[4] + one[5] * one[5]);
        for other in &bodies[at + 1..] {
            let apart = [other[0] - one[0], other[1] - one[1], other[2] - one[2]];
            let square = apart[0] * apart[0] + apart[1] * apart[1] + apart[2] * apart[2] + SOFT;
            energy -= one[6] * other[6] / square.sqrt();
        }
    }
    energy
}
