#!/usr/bin/env python3
"""Runs the cases of manifest.json on another host, the wasmtime command line, so that
the expected results do not depend only on wrun.

    check.py TOOLCHAINS [WORD...]     only the cases whose guest has a WORD

TOOLCHAINS/bin needs wasmtime and wasm-tools. Features that are specific to wrun are
not checked: that host has no `wrun:task` imports, no read-only grants and no limit on
output, and reports traps, limits and refusals only as "it did not complete".
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOOLS = Path(sys.argv[1]).resolve() / "bin"


def componentized(guest, scratch):
    """A core module that exports run, as a component; None if that is not possible."""
    for command in (
        ["parse", guest, "-o", "core.wasm"],
        ["component", "embed", HERE.parent / "wit", "--world", "task", "core.wasm", "-o", "embedded.wasm"],
        ["component", "new", "embedded.wasm", "-o", "component.wasm"],
    ):
        if subprocess.run([TOOLS / "wasm-tools", *command], cwd=scratch, capture_output=True).returncode:
            return None
    return Path(scratch) / "component.wasm"


def skipped(case):
    guest = HERE / case["guest"]
    if not guest.exists():
        return "not built"
    if b"wrun:task/" in guest.read_bytes():
        return "imports wrun:task"
    if case["expect"].get("detail") == "output":
        return "no limit on output"
    if case["expect"].get("detail") == "memory" and "many" in case["guest"]:
        return "limits each memory, not their sum"
    if case["guest"].endswith("exit-code.wat") and int(case["args"][0]) > 125:
        return "has no exit codes over 125"
    if any(grant["read_only"] for grant in case.get("dirs", [])) and case["expect"]["exit_code"] in (11, 13):
        return "no read-only grants"
    given = case["input"]
    if case["shape"] != "command" and isinstance(given, dict) and "file" in given:
        if (HERE / given["file"]).stat().st_size > 20_000:
            return "input too long for an argument"
    if case["shape"] != "command" and given == "silent":
        return "input is an argument"
    if "fuel" in case.get("limits", {}) and case["expect"]["outcome"] == "completed":
        return "fuel is counted otherwise"
    return None


def run(case, scratch):
    limits = case.get("limits", {})
    guest = HERE / case["guest"]
    given = case["input"]
    data = b""
    if isinstance(given, dict):
        data = (HERE / given["file"]).read_bytes() if "file" in given else given["text"].encode()
    command = [TOOLS / "wasmtime", "run"]
    command += ["-W", f"timeout={limits.get('timeout_ms', 60_000)}ms"]
    command += ["-W", f"max-memory-size={limits.get('max_memory', 512 << 20)},max-table-elements=1000000"]
    if "fuel" in limits:
        command += ["-W", f"fuel={limits['fuel']}"]
    for name, value in case.get("env", {}).items():
        command += ["--env", f"{name}={value}"]
    for grant in case.get("dirs", []):
        host = HERE / grant["host"] if grant["host"] else Path(tempfile.mkdtemp(dir=scratch))
        command += ["--dir", f"{host}::{grant['guest']}"]
    is_run = case["shape"] != "command"
    if case["shape"] == "core":
        guest = componentized(guest, scratch)
        if guest is None:
            return "refused", 1, b"", b""
    if is_run:
        command += ["--invoke", f"run({list(data)})"]
    command += [guest, *case.get("args", [])]
    if given == "silent":
        read, write = os.pipe()  # open until the process ends, and nothing comes
        done = subprocess.run(command, stdin=read, capture_output=True)
        os.close(read), os.close(write)
    else:
        done = subprocess.run(command, input=b"" if is_run else data, capture_output=True)
    code, out = done.returncode, done.stdout
    if is_run and code == 0:
        text = out.decode().strip()
        if text.startswith("ok("):
            return "completed", 0, bytes(json.loads(text[3:-1])), done.stderr
        return "failed", 1, text.encode(), done.stderr
    stopped = b"failed to run main module" in done.stderr or b"Stack backtrace" in done.stderr
    if code and (code < 0 or code == 134 or stopped):
        return "stopped", code, out, done.stderr
    return ("exited" if code else "completed"), code, out, done.stderr


def wrong(case, scratch):
    expect = case["expect"]
    outcome, code, out, err = run(case, scratch)
    if expect["outcome"] in ("trapped", "limit-exceeded", "refused"):
        return None if outcome in ("stopped", "refused") else f"{outcome} ({code})"
    if outcome != expect["outcome"]:
        return f"{outcome} ({code}): {err.decode(errors='replace')[:300]}"
    if outcome == "exited" and code != expect["exit_code"]:
        return f"exit code {code}"
    want = expect.get("stdout", {})
    if outcome == "failed":
        return None if expect["message"]["contains"] in out.decode().replace("\\", "") else out.decode()
    if "text" in want and out != want["text"].encode():
        return f"printed {out[:100]!r}"
    if "file" in want and out != (HERE / want["file"]).read_bytes():
        return f"printed something other than {want['file']}"
    if "contains" in want and want["contains"].encode() not in out:
        return f"printed {out[:100]!r}"
    if "sha256" in want and hashlib.sha256(out).hexdigest() != want["sha256"]:
        return f"printed {len(out)} bytes of another digest"
    if "stderr" in expect and expect["stderr"]["contains"].encode() not in err:
        return f"said {err[:200]!r}"
    return None


def main():
    failures = 0
    for case in json.loads((HERE / "manifest.json").read_text()):
        if sys.argv[2:] and not any(word in case["guest"] for word in sys.argv[2:]):
            continue
        title = f"{case['guest']}: {case['case']}"
        if why := skipped(case):
            print(f"skip {title} ({why})")
            continue
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            problem = wrong(case, scratch)
        failures += problem is not None
        print(f"{'FAIL' if problem else 'ok  '} {title} [{time.monotonic() - start:.1f}s] {problem or ''}", flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
