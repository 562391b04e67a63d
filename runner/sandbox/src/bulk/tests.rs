//! A module and its changed form behave the same.

use super::*;
use crate::engine::{self, Checks, Kind};
use std::sync::OnceLock;
use wasmtime::{Engine, Func, Instance, Module as Compiled, Store, UpdateDeadline, Val};

const PAGES: i64 = 80;
const BYTES: i64 = PAGES << 16;
const P: i64 = PIECE as i64;

fn compiler() -> &'static Engine {
    static COMPILER: OnceLock<Engine> = OnceLock::new();
    COMPILER.get_or_init(|| {
        let kind = Kind {
            checks: Checks {
                metered: false,
                epochs: true,
            },
            wide: false,
        };
        engine::compiler(kind, false).expect("an engine")
    })
}

fn binary(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("text")
}

fn changed(text: &str) -> (Vec<u8>, Offsets) {
    let original = binary(text);
    match in_pieces(Cow::Borrowed(&original)).expect("valid") {
        (Cow::Owned(changed), offsets) => (changed, offsets),
        (Cow::Borrowed(_), _) => panic!("nothing was changed"),
    }
}

fn is_changed(text: &str) -> bool {
    let original = binary(text);
    let (changed, _) = in_pieces(Cow::Borrowed(&original)).expect("valid");
    matches!(changed, Cow::Owned(_))
}

/// An instance whose memories have initial content, and a count of its checks of the clock.
fn instance(module: &[u8]) -> (Store<u64>, Instance) {
    let module = Compiled::new(compiler(), module).expect("compiles");
    let mut store = Store::new(compiler(), 0);
    store.set_epoch_deadline(0);
    store.epoch_deadline_callback(|mut context| {
        *context.data_mut() += 1;
        Ok(UpdateDeadline::Continue(0))
    });
    let instance = Instance::new(&mut store, &module, &[]).expect("instantiates");
    for name in ["a", "b"] {
        let memory = instance.get_memory(&mut store, name).expect("it has");
        for (at, byte) in memory.data_mut(&mut store).iter_mut().enumerate() {
            *byte = (at * 31 + at / 4096 * 7 + name.len()) as u8;
        }
    }
    (store, instance)
}

/// How a call ended, with the positions of a trap.
fn called(
    (store, instance): &mut (Store<u64>, Instance),
    name: &str,
    arguments: &[i64],
    offsets: &Offsets,
) -> String {
    let function = instance.get_func(&mut *store, name).expect("it has");
    let parameters: Vec<_> = function.ty(&*store).params().collect();
    let arguments: Vec<Val> = parameters
        .iter()
        .zip(arguments)
        .map(|(ty, value)| match ty {
            wasmtime::ValType::I64 => Val::I64(*value),
            _ => Val::I32(*value as i32),
        })
        .collect();
    match call(store, function, &arguments) {
        Ok(()) => "done".to_owned(),
        Err(error) => {
            let backtrace = error.downcast_ref::<wasmtime::WasmBacktrace>();
            let frames = backtrace.expect("a trap has one").frames();
            let at: Vec<_> = frames
                .iter()
                .map(|frame| {
                    let offset = frame.module_offset().expect("known");
                    (frame.func_index(), offsets.original(offset).expect("known"))
                })
                .collect();
            format!("{:?} at {at:?}", error.downcast_ref::<wasmtime::Trap>())
        }
    }
}

fn call(store: &mut Store<u64>, function: Func, arguments: &[Val]) -> wasmtime::Result<()> {
    function.call(store, arguments, &mut [])
}

/// Two memories of given widths, and each instruction on each.
fn everything(a: &str, b: &str) -> String {
    let least = |one: &str, other: &str| {
        match (one, other) {
            ("i64", "i64") => "i64",
            _ => "i32",
        }
        .to_owned()
    };
    let mut functions = String::new();
    for (name, ty) in [("a", a), ("b", b)] {
        functions += &format!(
            r#"(func (export "fill-{name}") (param {ty} i32 {ty}) (local f64)
                (memory.fill ${name} (local.get 0) (local.get 1) (local.get 2)))"#
        );
    }
    for (to, to_ty) in [("a", a), ("b", b)] {
        for (from, from_ty) in [("a", a), ("b", b)] {
            let length = least(to_ty, from_ty);
            functions += &format!(
                r#"(func (export "copy-{to}-{from}") (param {to_ty} {from_ty} {length})
                    (memory.copy ${to} ${from}
                        (local.get 0) (local.get 1) (local.get 2)))"#
            );
        }
    }
    format!(
        r#"(module
            (memory $a (export "a") {a} {PAGES}) (memory $b (export "b") {b} {PAGES})
            {functions}
            (func (export "twice") (param i32 i32)
                (block (br_if 0 (i32.eqz (local.get 0)))
                    (memory.fill $a ({a}.const 0) (i32.const 1) ({a}.const 4)))
                (memory.fill $a ({a}.const 9) (i32.const 2) ({a}.const 3000000))
                (memory.fill $b ({b}.const 9) (i32.const 2) ({b}.const 99000000))
                unreachable
                memory.fill $a
                memory.copy $b $a))"#
    )
}

#[test]
fn in_pieces_the_same_happens() {
    let lengths = [
        0,
        1,
        P - 1,
        P,
        P + 1,
        2 * P,
        3 * P - 1,
        3 * P + 7,
        BYTES,
        BYTES + 1,
        -1,
    ];
    let places = [
        0,
        1,
        P / 2,
        P + 3,
        BYTES - P - 1,
        BYTES - 1,
        BYTES,
        BYTES + 1,
        -1,
        -P,
    ];
    for (a, b) in [
        ("i32", "i32"),
        ("i32", "i64"),
        ("i64", "i32"),
        ("i64", "i64"),
    ] {
        let text = everything(a, b);
        let (pieces, offsets) = changed(&text);
        let mut original = instance(&binary(&text));
        let mut pieces = instance(&pieces);
        let none = Offsets::default();
        let mut compare = |name: &str, arguments: &[i64]| {
            let expected = called(&mut original, name, arguments, &none);
            let ended = called(&mut pieces, name, arguments, &offsets);
            assert_eq!(ended, expected, "{a} {b}: {name} {arguments:?}");
            for memory in ["a", "b"] {
                let expected = original.1.get_memory(&mut original.0, memory);
                let expected = expected.expect("it has").data(&original.0);
                let memory = pieces.1.get_memory(&mut pieces.0, memory);
                let memory = memory.expect("it has").data(&pieces.0);
                assert!(memory == expected, "{a} {b}: {name} {arguments:?}");
            }
        };
        for length in lengths {
            for (at, place) in places.iter().enumerate() {
                compare("fill-a", &[*place, at as i64, length]);
                compare("fill-b", &[*place, at as i64, length]);
            }
        }
        for length in [P - 1, P + 1, 2 * P + 5, BYTES, -1] {
            for to in [0, 1, P / 2, P + 3, BYTES - 1, -1] {
                for from in [0, 2, P / 2 + 1, 2 * P, BYTES - P, -P] {
                    compare("copy-a-a", &[to, from, length]);
                }
                for name in ["copy-a-b", "copy-b-a", "copy-b-b"] {
                    compare(name, &[to, P / 3, length]);
                }
            }
        }
        compare("twice", &[1, 0]);
    }
}

#[test]
fn the_clock_is_looked_at_between_pieces() {
    let text = everything("i32", "i32");
    let arguments = [0, 0, BYTES];
    let mut original = instance(&binary(&text));
    let mut pieces = instance(&changed(&text).0);
    for name in ["fill-a", "copy-a-b"] {
        for (instance, expected) in [(&mut original, 0), (&mut pieces, BYTES / P - 1)] {
            let before = *instance.0.data();
            called(instance, name, &arguments, &Offsets::default());
            let looks = *instance.0.data() - before;
            // And at entries of functions and before each instruction.
            assert!(looks as i64 >= expected, "{looks} looks in {name}");
            assert!(
                expected > 0 || looks < 5,
                "{looks} looks in {name}, unchanged"
            );
        }
    }
}

#[test]
fn what_is_small_stays_as_it_is() {
    for (body, expected) in [
        ("nop", false),
        (
            "(memory.fill (i32.const 0) (i32.const 0) (i32.const 65536))",
            false,
        ),
        (
            "(memory.fill (i32.const 0) (i32.const 0) (i32.const 65537))",
            true,
        ),
        (
            "(memory.copy (i32.const 0) (i32.const 0) (i32.const 64))",
            false,
        ),
        (
            "(memory.copy (i32.const 0) (i32.const 0) (i32.const -1))",
            true,
        ),
        (
            "(memory.copy (i32.const 0) (i32.const 0) (memory.size))",
            true,
        ),
        (
            "(memory.init $d (i32.const 0) (i32.const 0) (memory.size))",
            false,
        ),
        ("(drop (i32.trunc_sat_f32_u (f32.const 1)))", false),
    ] {
        let text = format!(r#"(module (memory 1) (data $d "x") (func {body}))"#);
        assert_eq!(is_changed(&text), expected, "{body}");
    }
}

#[test]
fn modules_in_components_are_changed() {
    let inner = "(core module (memory 1) (func (memory.fill (i32.const 0) (i32.const 0) \
                 (memory.size))))";
    let text = format!("(component {inner} (component {inner} (type string)) (type u8))");
    let original = binary(&text);
    let (changed, offsets) = changed(&text);
    let mut validator = wasmparser::Validator::new_with_features(engine::FEATURES);
    validator.validate_all(&changed).expect("valid");
    // Each instruction maps back to itself.
    let fills = |bytes: &[u8]| -> Vec<usize> {
        bytes
            .windows(4)
            .enumerate()
            .filter(|(_, window)| *window == [0xfc, 0x0b, 0, 0x0b])
            .map(|(at, _)| at)
            .collect()
    };
    let (before, after) = (fills(&original), fills(&changed));
    assert_eq!(before.len(), 2);
    for at in before {
        assert!(
            after.iter().any(|it| offsets.original(*it) == Some(at)),
            "{at}"
        );
    }
}

#[test]
fn truncation_never_panics() {
    for text in [
        everything("i32", "i64"),
        "(component (core module (memory 1) (func (memory.fill (i32.const 0) (i32.const 0) \
         (memory.size)))))"
            .to_owned(),
    ] {
        let whole = binary(&text);
        for len in HEADER..whole.len() {
            let _ = in_pieces(Cow::Borrowed(&whole[..len]));
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            let _ = in_pieces(Cow::Owned(damaged));
        }
    }
}
