//! `wrun inspect`.

use super::args::{InspectArgs, RunArgs};
use super::in_use::InUse;
use super::{Failure, exit, print, text};
use std::fmt::Write as _;
use wrun::Grant;

pub(super) fn inspect(args: &InspectArgs) -> Result<u8, Failure> {
    InUse::new([&*args.task]).check_stdout()?;
    let inspection = wrun::inspect(&args.task, RunArgs::MAX_MODULE)?;
    let code = if inspection.shape.is_ok() {
        0
    } else {
        exit::NOT_LOADABLE
    };
    if args.json {
        let mut json = inspection.to_json();
        json["grants"] = inspection.grants.iter().map(option).collect();
        let mut json = json.to_string();
        json.push('\n');
        print(json.as_bytes())?;
        return Ok(code);
    }
    let mut out = String::new();
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(out, "{name:<9} {value}");
    };
    row("task", &args.task.display().to_string());
    match &inspection.shape {
        Ok(shape) => row("shape", shape.describe()),
        Err(why) => row("refused", why),
    }
    row("size", &format!("{} bytes", inspection.size));
    row("blake3", &inspection.digest);
    if let Some(compiled) = &inspection.compiled {
        row("compiled", compiled);
    } else {
        row("functions", &inspection.functions().to_string());
        for (initial, maximum) in inspection.memories() {
            let show = |bytes: u64| bytesize::ByteSize(bytes).display().iec().to_string();
            let maximum = maximum.map_or_else(
                || "no maximum".into(),
                |max| format!("at most {}", show(max)),
            );
            row(
                "memory",
                &format!("{} at the start, {maximum}", show(initial)),
            );
        }
        if inspection.has_start_function() {
            row("start", "has a start function");
        }
        let grants = if inspection.grants.is_empty() {
            "nothing".to_owned()
        } else {
            let options: Vec<_> = inspection.grants.iter().map(option).collect();
            format!("{}, if it uses what it imports", options.join(" "))
        };
        row("grants", &grants);
        for (name, kind) in inspection.exports() {
            row("export", &format!("{} ({kind})", text::name(name)));
        }
        for (name, kind) in inspection.imports() {
            row("import", &format!("{} ({kind})", text::name(name)));
        }
    }
    print(text::clean(&out).as_bytes())?;
    Ok(code)
}

/// The option for it.
fn option(grant: &Grant) -> &'static str {
    match grant {
        Grant::Dir => "--dir",
        Grant::Env => "--env",
        Grant::Tcp => "--allow-tcp",
        Grant::Http => "--allow-http",
        Grant::Task => "--task",
        _ => "another grant",
    }
}
