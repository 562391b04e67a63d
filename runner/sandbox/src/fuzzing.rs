//! The steps before a task file is compiled, as a function of any bytes, with their
//! invariants. No native code is made or loaded here.

use super::code::{self, Code, Meta};
use super::compile;
use super::engine::Checks;
use super::inspect::{Inspection, inspect_bytes};
use super::pair;
use super::source::{self, Shape};

/// A file that is loaded as a task.
pub fn loader(data: &[u8]) {
    if pair::is_pair(data) {
        both(data);
        both(&pair::mended(data));
        return;
    }
    if code::is_artifact(data) {
        trailer(data);
        // Almost every change makes the digest wrong, so it is also tried with a right one.
        trailer(&mended(data));
        return;
    }
    look(inspect_bytes(data).ok());
    let Ok(task) = compile::compilable(data) else {
        return;
    };
    let (shape, binary) = (task.shape, task.binary);
    let facts = source::facts(&binary).expect("what was accepted can be read");
    let becomes = match shape {
        Shape::CoreModule => Shape::Component,
        other => other,
    };
    assert_eq!(source::shape(&facts).expect("it still is a task"), becomes);
    if shape == Shape::CoreModule {
        let made = inspect_bytes(&binary).expect("the encoder makes components");
        assert_eq!(made.shape, Ok(Shape::Component));
    }
}

/// The component that wrun makes of a core module or WAT text; `None` if it is not a task
/// of that shape. For seeds.
pub fn component(task: &[u8]) -> Option<Vec<u8>> {
    let task = compile::compilable(task).ok()?;
    (task.shape == Shape::CoreModule).then(|| task.binary.into_owned())
}

/// A compiled artifact whose code is the given bytes. For seeds.
pub fn artifact(code: &[u8], metered: bool) -> Vec<u8> {
    let checks = Checks {
        metered,
        epochs: true,
    };
    let meta = Meta::new(Shape::CoreModule, checks, &blake3::hash(code), 7);
    let trailer = code::trailer(code, &meta).expect("it encodes");
    [code, &trailer].concat()
}

/// Everything that `wrun inspect` shows.
fn look(inspection: Option<Inspection>) {
    let Some(inspection) = inspection else {
        return;
    };
    let _ = inspection.to_json().to_string();
    let externs = inspection.imports().chain(inspection.exports());
    for (name, _) in externs {
        let shown = source::shown(name);
        assert!(
            !shown.chars().any(char::is_control),
            "it cannot forge a line"
        );
    }
    let _ = inspection.memories().count();
    if let Err(refusal) = &inspection.shape {
        assert!(!refusal.is_empty(), "a refusal says why");
    }
}

/// Two artifacts in one file.
fn both(data: &[u8]) {
    let inspected = inspect_bytes(data);
    for for_threads in [true, false] {
        let part = pair::part(data, for_threads).and_then(Code::from_bytes);
        assert!(
            part.is_ok() || inspected.is_err(),
            "inspect believed what load did not"
        );
    }
    look(inspected.ok());
}

/// A compiled artifact, up to where its code would be mapped.
fn trailer(data: &[u8]) {
    let inspected = inspect_bytes(data);
    let code = match Code::from_bytes(data) {
        Ok(code) => code,
        Err(error) => {
            assert!(inspected.is_err(), "inspect believed what load did not");
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    look(Some(inspected.expect("inspect reads what load reads")));
    assert_eq!(code.bytes().expect("it is in memory"), data);
    let file = code.file().try_clone().expect("one more descriptor");
    let again = Code::from_sealed(file).expect("a worker takes what its runner verified");
    assert_eq!(again.meta, code.meta);
}

/// The artifact with a right digest, and with lengths that add up.
fn mended(artifact: &[u8]) -> Vec<u8> {
    let (covered, footer) = artifact.split_at(artifact.len() - code::FOOTER);
    let mut footer = footer.to_vec();
    let wanted = u32::from_le_bytes([footer[0], footer[1], footer[2], footer[3]]) as usize;
    let meta_len = wanted.min(covered.len());
    footer[..4].copy_from_slice(&(meta_len as u32).to_le_bytes());
    footer[8..40].copy_from_slice(blake3::hash(covered).as_bytes());
    footer[40..48].copy_from_slice(&((covered.len() - meta_len) as u64).to_le_bytes());
    [covered, &footer].concat()
}
