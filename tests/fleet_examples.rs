//! The files in `examples/fleet` are what they say: a client in Python, a unit of systemd, a
//! manifest of Kubernetes, settings of a worker.

use crate::map::guest;
use crate::support::command::{PATIENCE, Wrun, scratch, write};
use crate::support::nats::Server;
use crate::support::{repo, tool, within, wrun};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// How long packages may take to come.
const INSTALLING: Duration = Duration::from_secs(100);

fn example(name: &str) -> PathBuf {
    repo("examples/fleet").join(name)
}

/// What a program did within a time; none if it did not end.
fn run(command: &mut Command, time: Duration) -> Option<Output> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let ended = within(time, || child.try_wait().unwrap().is_some());
    if !ended {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    ended.then_some(output)
}

/// A Python with what the example imports: the machine's own, or one with packages that are installed for it.
fn python(folder: &Path) -> Option<PathBuf> {
    let imports = ["-c", "import nats, blake3"];
    let has = |python: &Path| {
        let output = run(Command::new(python).args(imports), PATIENCE);
        output.is_some_and(|output| output.status.success())
    };
    let own = tool::find(&["python3"]);
    let Some(own) = own else {
        tool::missing("nats-py", "there is no python3");
        return None;
    };
    if has(&own) {
        return Some(own);
    }
    let made = folder.join("python");
    let python = made.join("bin/python");
    let mut making = Command::new(&own);
    making.args(["-m", "venv"]).arg(&made);
    let mut installing = Command::new(&python);
    installing.args(["-m", "pip", "-q", "install", "nats-py", "blake3"]);
    for command in [&mut making, &mut installing] {
        let done = run(command, INSTALLING);
        if !done.is_some_and(|output| output.status.success()) {
            tool::missing("nats-py", "nats-py and blake3 cannot be installed");
            return None;
        }
    }
    assert!(has(&python), "nats-py was installed and is not there");
    Some(python)
}

#[test]
fn a_client_in_python_needs_nothing_of_wrun() {
    let Some(server) = Server::with_jetstream() else {
        return;
    };
    let folder = scratch();
    let Some(python) = python(folder.path()) else {
        return;
    };
    let _worker = server.worker("process", "w", &[]);
    server.await_workers(1);
    let submit = |task: &Path, inputs: &[&str]| {
        let mut command = Command::new(&python);
        command
            .arg(example("submit.py"))
            .arg(server.url())
            .arg(task);
        let output = run(command.args(inputs), PATIENCE).expect("it ends");
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, stdout, stderr) = submit(&guest("echo/echo.wat"), &["one", "zwölf", "three"]);
    let mut lines: Vec<_> = stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        (code, lines),
        (Some(0), vec!["one: one", "three: three", "zwölf: zwölf"]),
        "{stderr}"
    );
    // What fails is told, and by the exit code.
    let none = write(folder.path(), "none.wasm", "no module");
    let (code, _, stderr) = submit(&none, &["x"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("x: refused: "), "{stderr}");
}

/// Whether the command takes these arguments. It does not run: `--help` comes behind them.
#[track_caller]
fn expect_taken(args: &[String]) {
    let ran = Wrun::new().args(args).arg("--help").run();
    ran.expect_code(0, &args.join(" "));
}

#[test]
fn arguments_that_do_not_exist_are_found_out() {
    let ran = Wrun::new().args(["worker", "--grase=60s", "--help"]).run();
    ran.expect_code(2, "an unknown option");
    let ran = Wrun::new().args(["worker", "--grace=soon", "--help"]).run();
    ran.expect_code(2, "a wrong value");
}

#[test]
fn the_unit_of_systemd_is_one() {
    let text = fs::read_to_string(example("wrun-worker.service")).unwrap();
    let mut keys = text.lines().filter_map(|line| line.split_once('='));
    let (_, start) = keys
        .find(|(key, _)| *key == "ExecStart")
        .expect("a program");
    let args: Vec<_> = start.split(' ').map(str::to_owned).collect();
    assert_eq!(args[0], "/usr/local/bin/wrun");
    expect_taken(&args[1..]);
    if !tool::available("systemd-analyze") {
        return;
    }
    let folder = scratch();
    let verify = |text: &str| {
        let text = text.replace("/usr/local/bin/wrun", wrun().to_str().unwrap());
        let unit = write(folder.path(), "wrun-worker.service", text);
        let mut command = Command::new("systemd-analyze");
        let output = run(command.arg("verify").arg(unit), PATIENCE).expect("it ends");
        String::from_utf8(output.stderr).unwrap()
    };
    let told = verify(&text);
    // It may have words about the machine's own units.
    assert!(!told.contains("wrun-worker.service"), "{told}");
    let told = verify(&text.replace("KillMode=", "KilMode="));
    assert!(
        told.contains("wrun-worker.service"),
        "it finds nothing: {told}"
    );
}

/// The objects of a manifest: as they are written, or with those fields only that Kubernetes
/// knows.
fn objects(manifest: &Path, only_known: bool) -> Vec<Value> {
    let mut command = Command::new("kubectl");
    match only_known {
        true => command.args(["set", "env", "X=Y"]),
        false => command.args(["label", "x=y", "--dry-run=client"]),
    };
    command.args(["--local", "-o", "json", "-f"]).arg(manifest);
    command.env("KUBECONFIG", "/dev/null");
    let output = run(&mut command, PATIENCE).expect("it ends");
    // What has no containers is an error for `set env`, which prints the rest.
    assert!(
        only_known || output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let objects = serde_json::Deserializer::from_slice(&output.stdout).into_iter();
    objects.map(|object| object.expect("JSON")).collect()
}

/// Panics where something is in `written` that is not in `known`.
#[track_caller]
fn expect_known(written: &Value, known: &Value, at: &str) {
    match (written, known) {
        (Value::Object(written), _) => {
            for (key, value) in written {
                expect_known(value, &known[key], &format!("{at}/{key}"));
            }
        }
        (Value::Array(written), _) => {
            for (number, value) in written.iter().enumerate() {
                expect_known(value, &known[number], &format!("{at}/{number}"));
            }
        }
        _ => assert_eq!(written, known, "{at} is not a field of Kubernetes"),
    }
}

#[test]
fn the_manifest_of_kubernetes_is_one() {
    if !tool::available("kubectl") {
        return;
    }
    let manifest = example("kubernetes.yaml");
    let written = objects(&manifest, false);
    let deployment = written.iter().find(|it| it["kind"] == "Deployment");
    let deployment = deployment.expect("a deployment");
    let known = objects(&manifest, true);
    let known = known.iter().find(|it| it["kind"] == "Deployment");
    let known = known.expect("a deployment");
    let pod = &deployment["spec"]["template"]["spec"];
    for part in ["replicas", "selector", "template"] {
        let mut part_of = deployment["spec"][part].clone();
        if part == "template" {
            // `X` has been added to it.
            part_of["spec"]["containers"][0]["env"]
                .as_array_mut()
                .unwrap()
                .truncate(1);
        }
        expect_known(&part_of, &known["spec"][part], part);
    }
    let container = &pod["containers"][0];
    let args = container["args"].as_array().expect("arguments");
    let args: Vec<_> = args
        .iter()
        .map(|it| it.as_str().unwrap().to_owned())
        .collect();
    expect_taken(&args);
    // Longer than --grace, so that what does not end is given back.
    let grace = args.iter().find_map(|arg| arg.strip_prefix("--grace="));
    let grace = humantime_seconds(grace.expect("--grace"));
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() > grace);
    // Each file that an option names is in a volume that is mounted.
    for path in args.iter().filter_map(|arg| arg.split_once("=/")) {
        let mounts = container["volumeMounts"].as_array().unwrap();
        let is_mounted = mounts.iter().any(|mount| {
            let at = mount["mountPath"].as_str().unwrap();
            format!("/{}", path.1).starts_with(&format!("{at}/"))
        });
        assert!(is_mounted, "{path:?} is in no volume");
    }
    let volumes = pod["volumes"].as_array().unwrap();
    for mount in container["volumeMounts"].as_array().unwrap() {
        let is_there = volumes.iter().any(|volume| volume["name"] == mount["name"]);
        assert!(is_there, "{mount} has no volume");
    }
    let settings = written.iter().find(|it| it["kind"] == "ConfigMap");
    let settings = settings.expect("settings")["data"]["worker.toml"].clone();
    let folder = scratch();
    let file = write(folder.path(), "worker.toml", settings.as_str().unwrap());
    expect_settings(&file);
    assert_eq!(deployment["metadata"]["name"], json!("wrun-worker"));
}

fn humantime_seconds(text: &str) -> u64 {
    text.strip_suffix('s').expect("seconds").parse().unwrap()
}

/// Settings that are wrong are an error before the worker connects.
#[track_caller]
fn expect_settings(file: &Path) {
    let ran = Wrun::new().args(["worker", "--nats", "nats://127.0.0.1:1", "--config"]);
    let ran = ran.arg(file).run();
    ran.expect_code(125, "there is no server");
    assert!(ran.stderr.contains("cannot connect"), "{ran}");
}

#[test]
fn the_settings_of_a_worker_are_read() {
    expect_settings(&example("worker.toml"));
    let folder = scratch();
    let wrong = write(folder.path(), "worker.toml", "[grant.x]\n");
    let ran = Wrun::new().args(["worker", "--nats", "nats://127.0.0.1:1", "--config"]);
    ran.arg(&wrong).run().expect_code(2, "no such table");
}
