#!/usr/bin/env python3
"""Makes the hostile guests that are too long or too broken to write by hand.

Only the Python standard library; the same bytes on every run.
"""

import random
from pathlib import Path

HERE = Path(__file__).parent


def leb(value):
    out = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        out.append(byte | (0x80 if value else 0))
        if not value:
            return bytes(out)


def sleb(value):
    out = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        done = (value == 0 and not byte & 0x40) or (value == -1 and byte & 0x40)
        out.append(byte | (0 if done else 0x80))
        if done:
            return bytes(out)


def section(number, content):
    return bytes([number]) + leb(len(content)) + content


def vector(items):
    items = list(items)
    return leb(len(items)) + b"".join(items)


def name(text):
    return leb(len(text)) + text.encode()


def custom(title, content):
    return section(0, name(title) + content)


HEADER = b"\0asm\1\0\0\0"
I32 = b"\x7f"
END = b"\x0b"


def code(body, local=b"\0"):
    body = local + body + END
    return leb(len(body)) + body


def echo(before=b"", after=b""):
    """The echo task as a binary, with bytes between and after its sections."""
    types = vector([b"\x60" + vector([I32] * 4) + vector([I32]), b"\x60" + vector([I32] * 2) + vector([I32])])
    exports = vector([name("memory") + b"\2\0", name("cabi_realloc") + b"\0\0", name("run") + b"\0\1"])
    realloc = b"\x41" + sleb(1024)
    store = lambda offset, local: b"\x41\0\x20" + bytes([local]) + b"\x36\2" + leb(offset)
    return (
        HEADER
        + before
        + section(1, types)
        + section(3, vector([b"\0", b"\1"]))
        + section(5, vector([b"\0\1"]))
        + section(7, exports)
        + section(10, vector([code(realloc), code(store(4, 0) + store(8, 1) + b"\x41\0")]))
        + after
    )


def many_functions(count=10_000):
    """Each function returns its number; run calls them all through a table."""
    types = vector(
        [
            b"\x60" + vector([I32] * 4) + vector([I32]),
            b"\x60" + vector([I32] * 2) + vector([I32]),
            b"\x60" + vector([]) + vector([I32]),
        ]
    )
    exports = vector([name("memory") + b"\2\0", name("cabi_realloc") + b"\0\0", name("run") + b"\0\1"])
    total = sum(range(count)) & 0xFFFFFFFF
    if total >= 1 << 31:
        total -= 1 << 32
    # local 2: index, local 3: sum; answers ok when the sum is right, else traps
    run = (
        b"\x03\x40"  # loop
        + b"\x20\3\x20\2\x11\2\0\x6a\x21\3"  # sum += table[index]()
        + b"\x20\2\x41\1\x6a\x22\2\x41" + sleb(count) + b"\x49\x0d\0" + END
        + b"\x20\3\x41" + sleb(total) + b"\x47\x04\x40\0" + END
        + b"\x41\0"
    )
    numbers = (code(b"\x41" + sleb(i)) for i in range(count))
    bodies = [code(b"\x41" + sleb(1024)), code(run, vector([b"\2" + I32])), *numbers]
    return (
        HEADER
        + section(1, types)
        + section(3, vector([b"\0", b"\1"] + [b"\2"] * count))
        + section(4, vector([b"\x70\0" + leb(count)]))
        + section(5, vector([b"\0\1"]))
        + section(7, exports)
        + section(9, vector([b"\0\x41\0" + END + vector(leb(i + 2) for i in range(count))]))
        + section(10, vector(bodies))
    )


def many_instances(count, pages):
    """One component, many core instances; each has this many pages of memory, and one
    more exports run."""
    lines = [
        f";; Made by make.py: {count} core instances in one component, {pages} pages of memory each.",
        "(component",
        f"  (core module $m (memory {pages}))",
        '  (core module $task (memory (export "memory") 1)',
        '    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))',
        '    (func (export "run") (param i32 i32) (result i32) (i32.const 0)))',
    ]
    lines += ["  (core instance (instantiate $m))"] * count
    lines += [
        "  (core instance $task (instantiate $task))",
        '  (alias core export $task "memory" (core memory $memory))',
        '  (func (export "run") (param "input" (list u8)) (result (result (list u8) (error string)))',
        '    (canon lift (core func $task "run") (memory $memory)',
        '      (realloc (core func $task "cabi_realloc")))))',
    ]
    return "\n".join(lines) + "\n"


def main():
    garbage = random.Random(3).randbytes(64)
    files = {
        # custom sections may hold anything: whoever reads them must not trust them
        "lying-component-type.wasm": echo(after=custom("component-type", garbage)),
        "lying-name.wasm": echo(after=custom("name", b"\1\xff\xff\xff\xff\x0f" + garbage)),
        "lying-producers.wasm": echo(after=custom("producers", b"\xff\xff\xff\xff\x0f" + garbage)),
        "lying-target-features.wasm": echo(before=custom("target_features", b"\xff\xff\x03+" + garbage)),
        "lying-dylink.wasm": echo(before=custom("dylink.0", b"\1\xff\xff\xff\xff\x0f" + garbage)),
        # not Wasm, in several ways
        "custom-name-too-long.wasm": echo(after=b"\0\5\xff\xff\xff\xff\x0f"),
        "section-too-long.wasm": echo(after=b"\0\xff\xff\xff\xff\x0f"),
        "truncated.wasm": echo()[:-9],
        "empty.wasm": b"",
        "only-header.wasm": HEADER,
        "not-wasm.wasm": b"This is not WebAssembly.\n",
        "unknown-version.wasm": b"\0asm\x63\0\0\0",
        "random-bytes.wasm": HEADER + random.Random(4).randbytes(2048),
        # text whose nesting would overflow the stack of a recursive parser
        "deep-blocks.wat": b'(module(func(export "_start")' + b"(block" * 12_000 + b")" * 12_000 + b"))\n",
        "deep-components.wat": b"(component" * 6_000 + b")" * 6_000 + b"\n",
        "deep-parentheses.wat": b"(" * 60_000 + b"\n",
        "many-functions.wasm": many_functions(),
        "many-instances.wat": many_instances(200, pages=16).encode(),
    }
    for file, content in files.items():
        (HERE / file).write_bytes(content)


if __name__ == "__main__":
    main()
