//! Guests that make the calls of a table, one after the other, and say what came of
//! each: generated, the ones of WASI 0.2 from the types in `wit/`.
//!
//! A table is text. A line is a call: `streams input-stream.read $in 10 = ok("0123")`.
//! Before `=` is what is called with what; after it what the guest says, or nothing
//! where that depends on the machine. `~` before a line keeps values to itself that
//! differ from run to run. `-> a, b` keeps the handles in a result, `!> e` the one in an
//! error; a call with a handle that never came to be is skipped, and the guest says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Where things are in a guest's memory.
const RET: u32 = 1024;
const SCRATCH: u32 = 4096;
const BUFFER: u32 = 16 << 10;
const STRINGS: u32 = 128 << 10;
const SAID: u32 = 1 << 20;
const HEAP: u32 = 2 << 20;
const PAGES: u32 = 64;

/// One call of a table.
pub(crate) struct Line {
    /// As it is in the table, up to the `=`.
    pub(crate) call: String,
    /// What the guest is to say.
    pub(crate) expected: Option<String>,
}

/// Calls that one guest makes.
pub(crate) struct Scenario {
    pub(crate) name: String,
    /// Words after the name: what it is granted, how it runs.
    pub(crate) words: BTreeSet<String>,
    pub(crate) lines: Vec<Line>,
}

/// The scenarios of a table.
pub(crate) fn scenarios(table: &str) -> Vec<Scenario> {
    let mut scenarios: Vec<Scenario> = Vec::new();
    for line in table.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(head) = line.strip_prefix("== ") {
            let (name, words) = head.split_once(':').unwrap_or((head, ""));
            scenarios.push(Scenario {
                name: name.trim().into(),
                words: words.split_whitespace().map(Into::into).collect(),
                lines: Vec::new(),
            });
            continue;
        }
        let (call, expected) = match line.split_once(" = ") {
            Some((call, expected)) => (call.trim(), Some(expected.trim().into())),
            None => (line, None),
        };
        let call = call.into();
        let scenario = scenarios.last_mut().expect("a scenario before its lines");
        scenario.lines.push(Line { call, expected });
    }
    scenarios
}

/// Words of a line: quotes and brackets keep together what is in them.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let (mut quoted, mut bracketed) = (false, false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            '[' if !quoted => bracketed = true,
            ']' if !quoted => bracketed = false,
            ' ' if !quoted && !bracketed => {
                words.push(String::new());
                continue;
            }
            _ => {}
        }
        words.last_mut().unwrap().push(c);
    }
    words.retain(|word| !word.is_empty());
    words
}

/// A call taken apart.
struct Call<'a> {
    hidden: bool,
    names: Vec<String>,
    arguments: Vec<String>,
    keep: Vec<&'a str>,
    keep_error: Option<&'a str>,
    shows: Vec<String>,
}

impl<'a> Call<'a> {
    /// `names` is how many words say what is called.
    fn new(line: &'a str, names: usize) -> Self {
        let (line, hidden) = match line.strip_prefix("~ ") {
            Some(line) => (line, true),
            None => (line, false),
        };
        let (line, keep_error) = match line.split_once(" !> ") {
            Some((line, name)) => (line, Some(name.trim())),
            None => (line, None),
        };
        let (line, keep) = match line.split_once(" -> ") {
            Some((line, names)) => (line, names.split(',').map(str::trim).collect()),
            None => (line, Vec::new()),
        };
        let (line, shows) = match line.split_once(" | ") {
            Some((line, shows)) => (line, words(shows)),
            None => (line, Vec::new()),
        };
        let mut words = words(line);
        let arguments = words.split_off(names.min(words.len()));
        Call {
            hidden,
            names: words,
            arguments,
            keep,
            keep_error,
            shows,
        }
    }
}

/// A guest's text, as it grows.
#[derive(Default)]
struct Text {
    imports: String,
    imported: BTreeMap<(String, String), usize>,
    functions: String,
    steps: String,
    strings: Vec<u8>,
    slots: BTreeSet<String>,
    /// What was allocated stays: an adapter keeps its state there.
    keeps_heap: bool,
}

impl Text {
    fn string(&mut self, bytes: &[u8]) -> (u32, u32) {
        let at = STRINGS + u32::try_from(self.strings.len()).unwrap();
        self.strings.extend_from_slice(bytes);
        assert!(at + 4096 < SAID, "the table's strings do not fit");
        (at, u32::try_from(bytes.len()).unwrap())
    }

    fn say(&mut self, text: &str) -> String {
        let (at, len) = self.string(text.as_bytes());
        format!("(call $puts (i32.const {at}) (i32.const {len}))")
    }

    fn import(&mut self, module: &str, name: &str, params: &[&str], results: &[&str]) -> usize {
        let key = (module.to_owned(), name.to_owned());
        let next = self.imported.len();
        if let Some(known) = self.imported.get(&key) {
            return *known;
        }
        let signature = format!("{}{}", signed("param", params), signed("result", results));
        let _ = writeln!(
            self.imports,
            "(import \"{module}\" \"{name}\" (func $i{next}{signature}))"
        );
        self.imported.insert(key, next);
        next
    }

    fn slot(&mut self, name: &str) -> String {
        self.slots.insert(name.into());
        format!("(global.get $s_{name})")
    }

    /// A step that says its number, then what `body` says, unless a handle in `needs`
    /// never came to be.
    fn step(&mut self, number: usize, needs: &[String], body: &str) {
        let skipped = self.say("skipped");
        let mut guards = String::new();
        for slot in needs {
            let _ = writeln!(
                guards,
                "(if (i32.eqz {slot}) (then {skipped} (call $putc (i32.const 10)) (return)))"
            );
        }
        let reset = match self.keeps_heap {
            true => String::new(),
            false => format!("(global.set $free (i32.const {HEAP}))"),
        };
        let _ = writeln!(
            self.functions,
            "(func $step{number} (local $at i32) (local $end i32)
               {reset}
               (memory.fill (i32.const {RET}) (i32.const 0) (i32.const 2048))
               (memory.fill (i32.const {SCRATCH}) (i32.const 0) (i32.const 4096))
               (memory.fill (i32.const {BUFFER}) (i32.const 0) (i32.const 100000))
               (call $num (i64.const {number})) (call $putc (i32.const 32))
               {guards} {body} (call $putc (i32.const 10)))"
        );
        let _ = writeln!(self.steps, "(call $step{number})");
    }

    /// The whole module. `entry` has the functions that are exported, which call
    /// `$steps`.
    fn module(&self, entry: &str) -> String {
        let mut globals = String::new();
        for slot in &self.slots {
            let _ = writeln!(globals, "(global $s_{slot} (mut i32) (i32.const 0))");
        }
        let mut strings = String::new();
        for byte in &self.strings {
            let _ = write!(strings, "\\{byte:02x}");
        }
        format!(
            r#"(module
{imports}
(memory (export "memory") {PAGES})
(global $free (mut i32) (i32.const {HEAP}))
(global $said (mut i32) (i32.const {SAID}))
(global $port (mut i32) (i32.const 0))
{globals}
(data (i32.const {STRINGS}) "{strings}")
(func (export "cabi_realloc") (param $old i32) (param $os i32) (param $align i32) (param $size i32) (result i32)
  (local $at i32)
  (local.set $at (i32.and (i32.sub (i32.add (global.get $free) (local.get $align)) (i32.const 1))
    (i32.sub (i32.const 0) (local.get $align))))
  (global.set $free (i32.add (local.get $at) (local.get $size)))
  (if (i32.gt_u (global.get $free) (i32.const {end})) (then unreachable))
  (local.get $at))
(func $putc (param $c i32)
  (i32.store8 (global.get $said) (local.get $c))
  (global.set $said (i32.add (global.get $said) (i32.const 1))))
(func $puts (param $p i32) (param $len i32)
  (memory.copy (global.get $said) (local.get $p) (local.get $len))
  (global.set $said (i32.add (global.get $said) (local.get $len))))
(func $num (param $n i64)
  (if (i64.ge_u (local.get $n) (i64.const 10)) (then (call $num (i64.div_u (local.get $n) (i64.const 10)))))
  (call $putc (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $n) (i64.const 10))))))
(func $hex (param $n i32)
  (call $putc (i32.add (local.get $n) (select (i32.const 48) (i32.const 87) (i32.lt_u (local.get $n) (i32.const 10))))))
;; The first bytes, what is not printable in hexadecimal; of more, their number and sum.
(func $bytes (param $p i32) (param $len i32) (local $at i32) (local $c i32) (local $sum i64)
  (call $putc (i32.const 34))
  (block $done (loop $more
    (br_if $done (i32.ge_u (local.get $at) (local.get $len)))
    (local.set $c (i32.load8_u (i32.add (local.get $p) (local.get $at))))
    (local.set $sum (i64.add (local.get $sum) (i64.extend_i32_u (local.get $c))))
    (if (i32.lt_u (local.get $at) (i32.const 40)) (then
      (if (i32.and (i32.ge_u (local.get $c) (i32.const 32)) (i32.lt_u (local.get $c) (i32.const 127)))
        (then (call $putc (local.get $c)))
        (else (call $putc (i32.const 92))
          (call $hex (i32.shr_u (local.get $c) (i32.const 4)))
          (call $hex (i32.and (local.get $c) (i32.const 15)))))))
    (local.set $at (i32.add (local.get $at) (i32.const 1)))
    (br $more)))
  (call $putc (i32.const 34))
  (if (i32.gt_u (local.get $len) (i32.const 40)) (then
    (call $putc (i32.const 35)) (call $num (i64.extend_i32_u (local.get $len)))
    (call $putc (i32.const 43)) (call $num (local.get $sum)))))
{functions}
(func $steps {steps})
{entry})"#,
            imports = self.imports,
            functions = self.functions,
            steps = self.steps,
            end = PAGES << 16,
        )
    }
}

fn signed(what: &str, types: &[&str]) -> String {
    match types {
        [] => String::new(),
        types => format!(" ({what} {})", types.join(" ")),
    }
}

pub(crate) mod wasi_0_2 {
    //! Guests of WASI 0.2: core modules by canonical names.

    use super::{BUFFER, Call, RET, SAID, SCRATCH, Scenario, Text};
    use crate::support::repo;
    use std::collections::{BTreeMap, BTreeSet};
    use std::fmt::Write as _;
    use wit_parser::abi::{AbiVariant, WasmType};
    use wit_parser::{
        Function, FunctionKind, Handle, Int, Resolve, SizeAlign, SourceMap, Type, TypeDefKind,
        TypeId, WorldId, WorldItem,
    };

    /// What `wit/` says of WASI.
    pub(crate) struct Wasi {
        resolve: Resolve,
        sizes: SizeAlign,
        command: WorldId,
        /// By the interface's name, then the function's: the interface's whole name and
        /// the function.
        functions: BTreeMap<(String, String), (String, Function)>,
        /// The interface of each resource.
        resources: BTreeMap<String, String>,
    }

    impl Wasi {
        pub(crate) fn new() -> Self {
            let mut resolve = Resolve::default();
            let mut package = None;
            for name in ["io", "clocks", "random", "filesystem", "sockets", "cli"] {
                let path = repo(&format!("wit/deps/{name}/{name}.wit"));
                let mut sources = SourceMap::default();
                sources.push_str(name, std::fs::read_to_string(path).unwrap());
                let group = sources.parse().map_err(|(_, error)| error).unwrap();
                package = Some(resolve.push_group(group).unwrap());
            }
            let package = package.unwrap();
            let world = resolve.select_world(&[package], Some("imports")).unwrap();
            let command = resolve.select_world(&[package], Some("command")).unwrap();
            let mut functions = BTreeMap::new();
            let mut resources = BTreeMap::new();
            for (key, item) in &resolve.worlds[world].imports {
                let WorldItem::Interface { id, .. } = item else {
                    continue;
                };
                let whole = resolve.name_world_key(key);
                let interface = &resolve.interfaces[*id];
                let short = interface.name.clone().unwrap();
                for (name, function) in &interface.functions {
                    let name = name.rsplit(']').next().unwrap().to_owned();
                    functions.insert((short.clone(), name), (whole.clone(), function.clone()));
                }
                for (name, ty) in &interface.types {
                    if matches!(resolve.types[*ty].kind, TypeDefKind::Resource) {
                        resources.insert(name.clone(), whole.clone());
                    }
                }
            }
            let mut sizes = SizeAlign::default();
            sizes.fill(&resolve);
            Wasi {
                resolve,
                sizes,
                command,
                functions,
                resources,
            }
        }

        /// Every function and every resource that can be dropped, as tables name them.
        pub(crate) fn all(&self) -> BTreeSet<String> {
            let functions = self
                .functions
                .keys()
                .map(|(short, name)| format!("{short} {name}"));
            let drops = self.resources.keys().map(|name| format!("drop {name}"));
            functions.chain(drops).collect()
        }

        /// What a line calls, as in [`Wasi::all`].
        pub(crate) fn called(line: &str) -> String {
            Call::new(line, 2).names.join(" ")
        }

        /// A task whose output is what it has to say.
        pub(crate) fn task(&self, scenario: &Scenario) -> String {
            self.text(scenario).module(&format!(
                r#"(func (export "run") (param $in i32) (param $len i32) (result i32)
                  (if (i32.ge_u (local.get $len) (i32.const 2))
                    (then (global.set $port (i32.load16_u (local.get $in)))))
                  (call $steps)
                  (i32.store (i32.const 16) (i32.const 0))
                  (i32.store (i32.const 20) (i32.const {SAID}))
                  (i32.store (i32.const 24) (i32.sub (global.get $said) (i32.const {SAID})))
                  (i32.const 16))"#
            ))
        }

        /// A command, which prints it; a component.
        pub(crate) fn command(&self, scenario: &Scenario) -> Vec<u8> {
            let mut text = self.text(scenario);
            let i32s = ["i32"; 4];
            let stdout = text.import("wasi:cli/stdout@0.2.12", "get-stdout", &[], &["i32"]);
            let write = text.import(
                "wasi:io/streams@0.2.12",
                "[method]output-stream.blocking-write-and-flush",
                &i32s,
                &[],
            );
            let module = text.module(&format!(
                r#"(func (export "wasi:cli/run@0.2.12#run") (result i32) (local $at i32) (local $n i32) (local $to i32)
                  (call $steps)
                  (local.set $to (call $i{stdout}))
                  (local.set $at (i32.const {SAID}))
                  (block $done (loop $more
                    (local.set $n (i32.sub (global.get $said) (local.get $at)))
                    (br_if $done (i32.eqz (local.get $n)))
                    (if (i32.gt_u (local.get $n) (i32.const 4096)) (then (local.set $n (i32.const 4096))))
                    (call $i{write} (local.get $to) (local.get $at) (local.get $n) (i32.const {RET}))
                    (local.set $at (i32.add (local.get $at) (local.get $n)))
                    (br $more)))
                  (i32.const 0))"#
            ));
            let mut module = wat::parse_str(&module).unwrap();
            let encoding = wit_component::StringEncoding::UTF8;
            wit_component::embed_component_metadata(
                &mut module,
                &self.resolve,
                self.command,
                encoding,
            )
            .unwrap();
            let mut encoder = wit_component::ComponentEncoder::default();
            encoder = encoder.module(&module).unwrap().validate(true);
            encoder.encode().unwrap()
        }

        fn text(&self, scenario: &Scenario) -> Text {
            let mut text = Text::default();
            let mut shown = BTreeMap::new();
            for (number, line) in scenario.lines.iter().enumerate() {
                self.step(&mut text, &mut shown, number, &line.call);
            }
            text
        }

        fn step(
            &self,
            text: &mut Text,
            shown: &mut BTreeMap<TypeId, usize>,
            number: usize,
            line: &str,
        ) {
            let call = Call::new(line, 2);
            let [first, second] = &call.names[..] else {
                panic!("{line}: what is called?");
            };
            let mut needs = Vec::new();
            let mut before = String::new();
            let mut arguments = Vec::new();
            for argument in &call.arguments {
                argument_of(text, argument, &mut arguments, &mut needs, &mut before);
            }
            if first == "drop" {
                let module = &self.resources[second];
                let drop = format!("[resource-drop]{second}");
                let import = text.import(module, &drop, &["i32"], &[]);
                let [slot] = &call.arguments[..] else {
                    panic!("{line}: one handle is dropped");
                };
                let forget = match slot.strip_prefix('$') {
                    Some(slot) => format!("(global.set $s_{slot} (i32.const 0))"),
                    None => String::new(),
                };
                let said = text.say("dropped");
                let body = format!(
                    "(call $i{import} {}) {forget} {said}",
                    arguments.concat().replace("(const ", "(i32.const ")
                );
                return text.step(number, &needs, &body);
            }
            let (module, function) = self
                .functions
                .get(&(first.clone(), second.clone()))
                .unwrap_or_else(|| panic!("{line}: there is no such function"));
            let signature = self
                .resolve
                .wasm_signature(AbiVariant::GuestImport, function);
            assert!(!signature.indirect_params, "{line}: too many parameters");
            let types: Vec<_> = signature.params.iter().map(core).collect();
            let results: Vec<_> = signature.results.iter().map(core).collect();
            let import = text.import(module, &function.name, &types, &results);
            if signature.retptr {
                arguments.push(format!("(i32.const {RET})"));
            }
            assert_eq!(arguments.len(), types.len(), "{line}: arguments, {types:?}");
            let mut body = before;
            let mut called = format!("(call $i{import}");
            for (argument, ty) in arguments.iter().zip(&types) {
                let _ = write!(
                    called,
                    " {}",
                    argument.replace("(const ", &format!("({ty}.const "))
                );
            }
            called.push(')');
            if let [result] = results[..] {
                let _ = writeln!(body, "({result}.store (i32.const {RET}) {called})");
            } else {
                let _ = writeln!(body, "{called}");
            }
            if let Some(ty) = &function.result {
                for (path, slot) in self.handles(ty).into_iter().zip(&call.keep) {
                    text.slot(slot);
                    let _ = writeln!(body, "{}", path.kept(slot));
                }
                if let Some(slot) = call.keep_error {
                    text.slot(slot);
                    let _ = writeln!(body, "{}", self.error_handle(ty).kept(slot));
                }
                let show = self.show(text, shown, ty, &format!("(i32.const {RET})"));
                body.push_str(&match call.hidden {
                    false => show,
                    true => self.show_hidden(text, shown, ty),
                });
            } else {
                body.push_str(&text.say("returned"));
            }
            text.step(number, &needs, &body);
        }

        /// Says a value of `ty` at `at`.
        fn show(
            &self,
            text: &mut Text,
            shown: &mut BTreeMap<TypeId, usize>,
            ty: &Type,
            at: &str,
        ) -> String {
            let number = |load: &str| format!("(call $num (i64.{load} {at}))");
            match ty {
                Type::Bool | Type::U8 | Type::S8 => number("load8_u"),
                Type::U16 | Type::S16 => number("load16_u"),
                Type::U32 | Type::S32 | Type::F32 | Type::Char => number("load32_u"),
                Type::U64 | Type::S64 | Type::F64 => number("load"),
                Type::String => format!("(call $bytes (i32.load {at}) (i32.load offset=4 {at}))"),
                Type::ErrorContext => panic!("WASI 0.2 has none"),
                Type::Id(id) => {
                    if let TypeDefKind::Type(inner) = &self.resolve.types[*id].kind {
                        return self.show(text, shown, inner, at);
                    }
                    let number = match shown.get(id) {
                        Some(number) => *number,
                        None => {
                            let number = shown.len();
                            shown.insert(*id, number);
                            let body = self.shower(text, shown, *id);
                            let _ = writeln!(
                                text.functions,
                                "(func $show{number} (param $p i32) (local $at i32) (local $end i32) {body})"
                            );
                            number
                        }
                    };
                    format!("(call $show{number} {at})")
                }
            }
        }

        fn shower(
            &self,
            text: &mut Text,
            shown: &mut BTreeMap<TypeId, usize>,
            id: TypeId,
        ) -> String {
            let def = &self.resolve.types[id];
            // What differs from run to run, wherever it is.
            if matches!(
                def.name.as_deref(),
                Some("datetime" | "metadata-hash-value")
            ) {
                return text.say("~");
            }
            let field = |offset: usize| format!("(i32.add (local.get $p) (i32.const {offset}))");
            match &def.kind {
                TypeDefKind::Handle(Handle::Own(_) | Handle::Borrow(_)) => text.say("handle"),
                TypeDefKind::Flags(_) => "(call $num (i64.load8_u (local.get $p)))".into(),
                TypeDefKind::Enum(all) => {
                    let cases = all.cases.iter().map(|case| (case.name.clone(), None));
                    self.cases(text, shown, all.tag(), cases.collect())
                }
                TypeDefKind::Variant(all) => {
                    let cases = all.cases.iter().map(|case| (case.name.clone(), case.ty));
                    self.cases(text, shown, all.tag(), cases.collect())
                }
                TypeDefKind::Option(some) => {
                    let cases = vec![("none".into(), None), ("some".into(), Some(*some))];
                    self.cases(text, shown, Int::U8, cases)
                }
                TypeDefKind::Result(result) => {
                    let cases = vec![("ok".into(), result.ok), ("err".into(), result.err)];
                    self.cases(text, shown, Int::U8, cases)
                }
                TypeDefKind::List(Type::U8) => {
                    "(call $bytes (i32.load (local.get $p)) (i32.load offset=4 (local.get $p)))"
                        .into()
                }
                TypeDefKind::List(ty) => {
                    let size = self.sizes.size(ty).size_wasm32();
                    let one = self.show(text, shown, ty, "(local.get $at)");
                    format!(
                        "(local.set $at (i32.load (local.get $p)))
                         (local.set $end (i32.add (local.get $at)
                           (i32.mul (i32.load offset=4 (local.get $p)) (i32.const {size}))))
                         (call $putc (i32.const 91))
                         (block $done (loop $more
                           (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
                           {one} (call $putc (i32.const 32))
                           (local.set $at (i32.add (local.get $at) (i32.const {size})))
                           (br $more)))
                         (call $putc (i32.const 93))"
                    )
                }
                TypeDefKind::Record(record) => {
                    let fields: Vec<_> = record.fields.iter().map(|field| field.ty).collect();
                    self.fields(text, shown, &fields, field)
                }
                TypeDefKind::Tuple(tuple) => self.fields(text, shown, &tuple.types, field),
                other => panic!("{}: WASI 0.2 has none", other.as_str()),
            }
        }

        fn fields(
            &self,
            text: &mut Text,
            shown: &mut BTreeMap<TypeId, usize>,
            types: &[Type],
            field: impl Fn(usize) -> String,
        ) -> String {
            let mut body = String::from("(call $putc (i32.const 40))");
            for (index, (offset, ty)) in self.sizes.field_offsets(types).into_iter().enumerate() {
                if index > 0 {
                    body.push_str("(call $putc (i32.const 44)) (call $putc (i32.const 32))");
                }
                body.push_str(&self.show(text, shown, ty, &field(offset.size_wasm32())));
            }
            body.push_str("(call $putc (i32.const 41))");
            body
        }

        fn cases(
            &self,
            text: &mut Text,
            shown: &mut BTreeMap<TypeId, usize>,
            tag: Int,
            cases: Vec<(String, Option<Type>)>,
        ) -> String {
            let types = cases.iter().map(|(_, ty)| ty.as_ref());
            let payload = self.sizes.payload_offset(tag, types).size_wasm32();
            let load = match tag {
                Int::U8 => "load8_u",
                Int::U16 => "load16_u",
                _ => "load",
            };
            let mut body = String::new();
            for (number, (name, ty)) in cases.iter().enumerate() {
                let mut said = text.say(name);
                if let Some(ty) = ty {
                    let at = format!("(i32.add (local.get $p) (i32.const {payload}))");
                    let value = self.show(text, shown, ty, &at);
                    let _ = write!(
                        said,
                        "(call $putc (i32.const 40)) {value} (call $putc (i32.const 41))"
                    );
                }
                let _ = writeln!(
                    body,
                    "(if (i32.eq (i32.{load} (local.get $p)) (i32.const {number})) (then {said}))"
                );
            }
            body
        }

        /// Of a result whether it is one, else nothing.
        fn show_hidden(
            &self,
            text: &mut Text,
            shown: &mut BTreeMap<TypeId, usize>,
            ty: &Type,
        ) -> String {
            let hidden = text.say("~");
            let Type::Id(id) = ty else {
                return hidden;
            };
            let TypeDefKind::Result(_) = &self.resolve.types[*id].kind else {
                return hidden;
            };
            let ok = text.say("ok(~)");
            let show = self.show(text, shown, ty, &format!("(i32.const {RET})"));
            format!("(if (i32.load8_u (i32.const {RET})) (then {show}) (else {ok}))")
        }

        /// Where the handles of a result are.
        fn handles(&self, ty: &Type) -> Vec<Place> {
            let mut places = Vec::new();
            let start = Place {
                address: format!("(i32.const {RET})"),
                conditions: Vec::new(),
            };
            self.find_handles(ty, start, &mut places);
            places
        }

        fn find_handles(&self, ty: &Type, place: Place, places: &mut Vec<Place>) {
            let Type::Id(id) = ty else {
                return;
            };
            match &self.resolve.types[*id].kind {
                TypeDefKind::Type(inner) => self.find_handles(inner, place, places),
                TypeDefKind::Handle(_) => places.push(place),
                TypeDefKind::Result(result) => {
                    if let Some(ok) = &result.ok {
                        let cases = [result.ok.as_ref(), result.err.as_ref()];
                        let payload = self.sizes.payload_offset(Int::U8, cases).size_wasm32();
                        let here = place.clone().when("i32.load8_u", 0);
                        self.find_handles(ok, here.at(payload), places);
                    }
                }
                TypeDefKind::Option(some) => {
                    let payload = self
                        .sizes
                        .payload_offset(Int::U8, [Some(some)])
                        .size_wasm32();
                    let here = place.clone().when("i32.load8_u", 1);
                    self.find_handles(some, here.at(payload), places);
                }
                TypeDefKind::Tuple(tuple) => {
                    for (offset, ty) in self.sizes.field_offsets(&tuple.types) {
                        self.find_handles(ty, place.clone().at(offset.size_wasm32()), places);
                    }
                }
                TypeDefKind::List(ty) => {
                    let mut first = place.clone();
                    first
                        .conditions
                        .push(format!("(i32.load offset=4 {})", place.address));
                    first.address = format!("(i32.load {})", place.address);
                    self.find_handles(ty, first, places);
                }
                _ => {}
            }
        }

        /// Where the error is that a stream's call ended with.
        fn error_handle(&self, ty: &Type) -> Place {
            let Type::Id(id) = ty else {
                panic!("no result");
            };
            let TypeDefKind::Result(result) = &self.resolve.types[*id].kind else {
                panic!("no result");
            };
            let cases = [result.ok.as_ref(), result.err.as_ref()];
            let payload = self.sizes.payload_offset(Int::U8, cases).size_wasm32();
            let start = Place {
                address: format!("(i32.const {RET})"),
                conditions: Vec::new(),
            };
            let error = start.when("i32.load8_u", 1).at(payload);
            error.when("i32.load8_u", 0).at(4)
        }
    }

    #[derive(Clone)]
    struct Place {
        address: String,
        conditions: Vec<String>,
    }

    impl Place {
        fn at(mut self, offset: usize) -> Self {
            self.address = format!("(i32.add {} (i32.const {offset}))", self.address);
            self
        }

        fn when(mut self, load: &str, value: u32) -> Self {
            self.conditions.push(format!(
                "(i32.eq ({load} {}) (i32.const {value}))",
                self.address
            ));
            self
        }

        fn kept(&self, slot: &str) -> String {
            let keep = format!("(global.set $s_{slot} (i32.load {}))", self.address);
            self.conditions.iter().rev().fold(keep, |inner, condition| {
                format!("(if {condition} (then {inner}))")
            })
        }
    }

    fn core(ty: &WasmType) -> &'static str {
        match ty {
            WasmType::I64 | WasmType::PointerOrI64 => "i64",
            WasmType::F32 => "f32",
            WasmType::F64 => "f64",
            WasmType::I32 | WasmType::Pointer | WasmType::Length => "i32",
        }
    }

    /// Adds the core values of one argument of a table.
    fn argument_of(
        text: &mut Text,
        argument: &str,
        arguments: &mut Vec<String>,
        needs: &mut Vec<String>,
        before: &mut String,
    ) {
        let constant = |value: i64| format!("(const {value})");
        let port = |word: &str| match word {
            "port" => "(global.get $port)".to_owned(),
            number => constant(number.parse().unwrap()),
        };
        if let Some(slot) = argument.strip_prefix('$') {
            let slot = text.slot(slot);
            needs.push(slot.clone());
            arguments.push(slot);
        } else if let Some(string) = argument.strip_prefix('"') {
            let (at, len) = text.string(string.trim_end_matches('"').as_bytes());
            arguments.extend([constant(at.into()), constant(len.into())]);
        } else if let Some(len) = argument.strip_prefix("zeros:") {
            arguments.extend([constant(BUFFER.into()), constant(len.parse().unwrap())]);
        } else if let Some(list) = argument.strip_prefix('[') {
            let mut len = 0;
            for slot in list.trim_end_matches(']').split_whitespace() {
                let slot = text.slot(slot.trim_start_matches('$'));
                let at = SCRATCH + 4 * len;
                let _ = writeln!(before, "(i32.store (i32.const {at}) {slot})");
                needs.push(slot);
                len += 1;
            }
            arguments.extend([constant(SCRATCH.into()), constant(len.into())]);
        } else if let Some(address) = argument.strip_prefix("ip4:") {
            let (ip, at) = address.split_once(':').unwrap();
            arguments.extend([constant(0), port(at)]);
            arguments.extend(ip.split('.').map(|byte| constant(byte.parse().unwrap())));
            arguments.extend((0..6).map(|_| constant(0)));
        } else if let Some(address) = argument.strip_prefix("ip6:") {
            let (last, at) = address.split_once(':').unwrap();
            arguments.extend([constant(1), port(at), constant(0)]);
            arguments.extend((0..7).map(|_| constant(0)));
            arguments.extend([constant(last.parse().unwrap()), constant(0)]);
        } else {
            arguments.push(constant(
                argument
                    .parse()
                    .unwrap_or_else(|_| panic!("{argument}: what is that?")),
            ));
        }
    }

    /// So that nothing of `wit/` goes unnoticed that is no function of an interface.
    pub(crate) fn is_plain(function: &Function) -> bool {
        matches!(
            function.kind,
            FunctionKind::Freestanding | FunctionKind::Method(_)
        )
    }

    impl Wasi {
        pub(crate) fn assert_plain(&self) {
            for ((short, name), (_, function)) in &self.functions {
                assert!(is_plain(function), "{short} {name}: {:?}", function.kind);
            }
        }
    }
}

pub(crate) mod wasi_0_1 {
    //! Guests of WASI 0.1.

    use super::{BUFFER, Call, RET, SAID, SCRATCH, Scenario, Text};
    use std::fmt::Write as _;

    /// Every function, with the types of its parameters.
    pub(crate) const FUNCTIONS: [(&str, &str); 46] = [
        ("args_get", "ii"),
        ("args_sizes_get", "ii"),
        ("clock_res_get", "ii"),
        ("clock_time_get", "iIi"),
        ("environ_get", "ii"),
        ("environ_sizes_get", "ii"),
        ("fd_advise", "iIIi"),
        ("fd_allocate", "iII"),
        ("fd_close", "i"),
        ("fd_datasync", "i"),
        ("fd_fdstat_get", "ii"),
        ("fd_fdstat_set_flags", "ii"),
        ("fd_fdstat_set_rights", "iII"),
        ("fd_filestat_get", "ii"),
        ("fd_filestat_set_size", "iI"),
        ("fd_filestat_set_times", "iIIi"),
        ("fd_pread", "iiiIi"),
        ("fd_prestat_dir_name", "iii"),
        ("fd_prestat_get", "ii"),
        ("fd_pwrite", "iiiIi"),
        ("fd_read", "iiii"),
        ("fd_readdir", "iiiIi"),
        ("fd_renumber", "ii"),
        ("fd_seek", "iIii"),
        ("fd_sync", "i"),
        ("fd_tell", "ii"),
        ("fd_write", "iiii"),
        ("path_create_directory", "iii"),
        ("path_filestat_get", "iiiii"),
        ("path_filestat_set_times", "iiiiIIi"),
        ("path_link", "iiiiiii"),
        ("path_open", "iiiiiIIii"),
        ("path_readlink", "iiiiii"),
        ("path_remove_directory", "iii"),
        ("path_rename", "iiiiii"),
        ("path_symlink", "iiiii"),
        ("path_unlink_file", "iii"),
        ("poll_oneoff", "iiii"),
        ("proc_exit", "i"),
        ("proc_raise", "i"),
        ("random_get", "ii"),
        ("sched_yield", ""),
        ("sock_accept", "iii"),
        ("sock_recv", "iiiiii"),
        ("sock_send", "iiiii"),
        ("sock_shutdown", "ii"),
    ];

    /// Names of errnos, in order.
    const ERRNOS: &str = "success 2big acces addrinuse addrnotavail afnosupport again already badf \
        badmsg busy canceled child connaborted connrefused connreset deadlk destaddrreq dom dquot \
        exist fault fbig hostunreach idrm ilseq inprogress intr inval io isconn isdir loop mfile \
        mlink msgsize multihop nametoolong netdown netreset netunreach nfile nobufs nodev noent \
        noexec nolck nolink nomem nomsg noprotoopt nospc nosys notconn notdir notempty \
        notrecoverable notsock notsup notty nxio overflow ownerdead perm pipe proto \
        protonosupport prototype range rofs spipe srch stale timedout txtbsy xdev notcapable";
    const ERRNO_LEN: usize = 16;

    /// What a line calls.
    pub(crate) fn called(line: &str) -> String {
        Call::new(line, 1).names.concat()
    }

    /// A command, which prints what it has to say.
    pub(crate) fn command(scenario: &Scenario) -> String {
        let mut text = text(scenario, false);
        let write = import(&mut text, "fd_write");
        text.module(&format!(
            r#"(func (export "_start") (local $at i32)
              (call $steps)
              (local.set $at (i32.const {SAID}))
              (block $done (loop $more
                (br_if $done (i32.ge_u (local.get $at) (global.get $said)))
                (i32.store (i32.const {SCRATCH}) (local.get $at))
                (i32.store offset=4 (i32.const {SCRATCH}) (i32.sub (global.get $said) (local.get $at)))
                (if (call $i{write} (i32.const 1) (i32.const {SCRATCH}) (i32.const 1) (i32.const {RET}))
                  (then unreachable))
                (local.set $at (i32.add (local.get $at) (i32.load (i32.const {RET}))))
                (br $more))))"#
        ))
    }

    /// A task whose output is what it has to say: wrun puts an adapter to WASI 0.2 under
    /// it.
    pub(crate) fn task(scenario: &Scenario) -> String {
        text(scenario, true).module(&format!(
            r#"(func (export "run") (param $in i32) (param $len i32) (result i32)
              (call $steps)
              (i32.store (i32.const 16) (i32.const 0))
              (i32.store (i32.const 20) (i32.const {SAID}))
              (i32.store (i32.const 24) (i32.sub (global.get $said) (i32.const {SAID})))
              (i32.const 16))"#
        ))
    }

    fn import(text: &mut Text, name: &str) -> usize {
        let known = FUNCTIONS.iter().find(|(known, _)| *known == name);
        let (_, types) = known.unwrap_or_else(|| panic!("{name}: there is no such function"));
        let params: Vec<_> = types.chars().map(core).collect();
        let results: &[&str] = match name {
            "proc_exit" => &[],
            _ => &["i32"],
        };
        text.import("wasi_snapshot_preview1", name, &params, results)
    }

    fn core(ty: char) -> &'static str {
        match ty {
            'I' => "i64",
            _ => "i32",
        }
    }

    fn text(scenario: &Scenario, keeps_heap: bool) -> Text {
        let mut text = Text {
            keeps_heap,
            ..Text::default()
        };
        let names: Vec<u8> = ERRNOS
            .split_whitespace()
            .flat_map(|name| format!("{name:ERRNO_LEN$}").into_bytes())
            .collect();
        let (names, _) = text.string(&names);
        let event = "(i32.add (i32.const 16384) (i32.mul (local.get $n) (i32.const 32)))";
        let _ = writeln!(
            text.functions,
            "(func $errno (param $n i32) (local $c i32)
               (local.set $n (i32.add (i32.const {names}) (i32.mul (local.get $n) (i32.const {ERRNO_LEN}))))
               (loop $more
                 (local.set $c (i32.load8_u (local.get $n)))
                 (if (i32.ne (local.get $c) (i32.const 32)) (then
                   (call $putc (local.get $c))
                   (local.set $n (i32.add (local.get $n) (i32.const 1)))
                   (br $more)))))
             (func $events (param $count i32) (local $n i32)
               (block $done (loop $more
                 (br_if $done (i32.ge_u (local.get $n) (local.get $count)))
                 (call $putc (i32.const 32)) (call $putc (i32.const 91))
                 (call $num (i64.load {event})) (call $putc (i32.const 32))
                 (call $errno (i32.load16_u offset=8 {event})) (call $putc (i32.const 32))
                 (call $num (i64.load8_u offset=10 {event})) (call $putc (i32.const 32))
                 (call $num (i64.load16_u offset=24 {event}))
                 (call $putc (i32.const 93))
                 (local.set $n (i32.add (local.get $n) (i32.const 1)))
                 (br $more))))
             (func $entries (param $at i32) (param $end i32) (local $len i32)
               (block $done (loop $more
                 (br_if $done (i32.gt_u (i32.add (local.get $at) (i32.const 24)) (local.get $end)))
                 (local.set $len (i32.load offset=16 (local.get $at)))
                 (call $putc (i32.const 32))
                 (call $num (i64.load (local.get $at))) (call $putc (i32.const 58))
                 (call $num (i64.load8_u offset=20 (local.get $at))) (call $putc (i32.const 58))
                 (call $puts (i32.add (local.get $at) (i32.const 24)) (local.get $len))
                 (local.set $at (i32.add (local.get $at) (i32.add (i32.const 24) (local.get $len))))
                 (br $more))))"
        );
        for (number, line) in scenario.lines.iter().enumerate() {
            step(&mut text, number, &line.call);
        }
        text
    }

    fn step(text: &mut Text, number: usize, line: &str) {
        let call = Call::new(line, 1);
        let name = &call.names[0];
        let mut needs = Vec::new();
        let mut body = String::new();
        let mut arguments = Vec::new();
        for argument in &call.arguments {
            argument_of(text, argument, &mut arguments, &mut needs, &mut body);
        }
        let import = import(text, name);
        let (_, types) = FUNCTIONS.iter().find(|(known, _)| known == name).unwrap();
        assert_eq!(arguments.len(), types.len(), "{line}: arguments");
        let mut called = format!("(call $i{import}");
        for (argument, ty) in arguments.iter().zip(types.chars()) {
            let constant = format!("({}.const ", core(ty));
            let _ = write!(called, " {}", argument.replace("(const ", &constant));
        }
        called.push(')');
        match name.as_str() {
            "proc_exit" => {
                let _ = writeln!(body, "{called}");
            }
            _ => {
                let _ = writeln!(
                    body,
                    "(local.set $at {called}) (call $errno (local.get $at))"
                );
            }
        }
        if let [slot] = call.keep[..] {
            text.slot(slot);
            let _ = writeln!(
                body,
                "(if (i32.eqz (local.get $at)) (then (global.set $s_{slot} (i32.load (i32.const {RET})))))"
            );
        }
        let mut shows = String::new();
        for show in &call.shows {
            shows.push_str("(call $putc (i32.const 32))");
            let _ = writeln!(shows, "{}", shown(show));
        }
        if !call.hidden {
            let _ = writeln!(body, "(if (i32.eqz (local.get $at)) (then {shows}))");
        }
        text.step(number, &needs, &body);
    }

    fn shown(show: &str) -> String {
        let (what, number) = show.split_once([':', '+']).unwrap_or((show, "0"));
        let number: u32 = number.parse().unwrap();
        let at = RET + number;
        match what {
            "u8" => format!("(call $num (i64.load8_u (i32.const {at})))"),
            "u16" => format!("(call $num (i64.load16_u (i32.const {at})))"),
            "u32" => format!("(call $num (i64.load32_u (i32.const {at})))"),
            "u64" => format!("(call $num (i64.load (i32.const {at})))"),
            "buf" if number == 0 => {
                format!("(call $bytes (i32.const {BUFFER}) (i32.load (i32.const {RET})))")
            }
            "buf" => format!("(call $bytes (i32.const {BUFFER}) (i32.const {number}))"),
            "events" => format!("(call $events (i32.load (i32.const {RET})))"),
            "entries" => format!(
                "(call $entries (i32.const {BUFFER})
                   (i32.add (i32.const {BUFFER}) (i32.load (i32.const {RET}))))"
            ),
            other => panic!("{other}: nothing that can be shown"),
        }
    }

    fn argument_of(
        text: &mut Text,
        argument: &str,
        arguments: &mut Vec<String>,
        needs: &mut Vec<String>,
        before: &mut String,
    ) {
        let constant = |value: u32| format!("(const {value})");
        let store = |before: &mut String, at: u32, value: &str| {
            let _ = writeln!(before, "(i32.store (i32.const {at}) {value})");
        };
        if let Some(slot) = argument.strip_prefix('$') {
            let slot = text.slot(slot);
            needs.push(slot.clone());
            arguments.push(slot);
        } else if let Some(string) = argument.strip_prefix('"') {
            let (at, len) = text.string(string.trim_end_matches('"').as_bytes());
            arguments.extend([constant(at), constant(len)]);
        } else if let Some(string) = argument.strip_prefix("civ:") {
            let (at, len) = text.string(string.trim_matches('"').as_bytes());
            store(before, SCRATCH, &format!("(i32.const {at})"));
            store(before, SCRATCH + 4, &format!("(i32.const {len})"));
            arguments.extend([constant(SCRATCH), constant(1)]);
        } else if let Some(lens) = argument.strip_prefix("iov:") {
            let mut at = BUFFER;
            let mut count = 0;
            for len in lens.split(',') {
                let len: u32 = len.parse().unwrap();
                store(before, SCRATCH + 8 * count, &format!("(i32.const {at})"));
                store(
                    before,
                    SCRATCH + 8 * count + 4,
                    &format!("(i32.const {len})"),
                );
                at += len;
                count += 1;
            }
            arguments.extend([constant(SCRATCH), constant(count)]);
        } else if let Some(len) = argument.strip_prefix("buf:") {
            arguments.extend([constant(BUFFER), constant(len.parse().unwrap())]);
        } else if argument == "buf" {
            arguments.push(constant(BUFFER));
        } else if argument == "out" {
            arguments.push(constant(RET));
        } else if let Some(offset) = argument.strip_prefix("out+") {
            arguments.push(constant(RET + offset.parse::<u32>().unwrap()));
        } else if let Some(count) = argument.strip_prefix("clocks:") {
            // One that is due in a millisecond, after many that never are.
            let count: u32 = count.parse().unwrap();
            let start = BUFFER + 40_000;
            for number in 0..count {
                let at = start + 48 * number;
                let time = if number + 1 == count { 1_000_000 } else { -1 };
                store(before, at, &format!("(i32.const {number})"));
                store(before, at + 16, "(i32.const 1)");
                let _ = writeln!(
                    before,
                    "(i64.store (i32.const {}) (i64.const {time}))",
                    at + 24
                );
            }
            arguments.extend([constant(start), constant(BUFFER), constant(count)]);
        } else if let Some(list) = argument.strip_prefix("subs:[") {
            let mut count = 0;
            for one in list.trim_end_matches(']').split_whitespace() {
                let at = SCRATCH + 48 * count;
                let parts: Vec<_> = one.split(':').collect();
                store(before, at, &format!("(i32.const {})", parts[1]));
                match parts[..] {
                    // User data, clock, nanoseconds, flags.
                    ["clock", _, clock, time, flags] => {
                        store(before, at + 8, "(i32.const 0)");
                        store(before, at + 16, &format!("(i32.const {clock})"));
                        let _ = writeln!(
                            before,
                            "(i64.store (i32.const {}) (i64.const {time}))",
                            at + 24
                        );
                        store(before, at + 40, &format!("(i32.const {flags})"));
                    }
                    [tag @ ("read" | "write"), _, fd] => {
                        let tag = 1 + u32::from(tag == "write");
                        store(before, at + 8, &format!("(i32.const {tag})"));
                        let fd = match fd.strip_prefix('$') {
                            Some(slot) => {
                                let slot = text.slot(slot);
                                needs.push(slot.clone());
                                slot
                            }
                            None => format!("(i32.const {fd})"),
                        };
                        store(before, at + 16, &fd);
                    }
                    _ => panic!("{one}: no subscription"),
                }
                count += 1;
            }
            arguments.extend([constant(SCRATCH), constant(BUFFER), constant(count)]);
        } else {
            let value: i64 = argument
                .parse()
                .unwrap_or_else(|_| panic!("{argument}: what is that?"));
            arguments.push(format!("(const {value})"));
        }
    }
}
