#!/usr/bin/env python3
"""Makes the expected outputs without running a guest: each comes from another
implementation of the same work, in Python's standard library.

`make.py` writes the files; `make.py --images DIR` checks the pictures in DIR
(sunset-blur.png, sunset-edges.png); another encoder would compress them differently.
"""

import collections
import csv
import itertools
import math
import re
import struct
import sys
import zlib
from pathlib import Path

HERE = Path(__file__).parent
INPUTS = HERE.parent / "inputs"
MASK = (1 << 64) - 1


def statistics(group, value):
    groups = {}
    with open(INPUTS / "sales.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            groups.setdefault(row[group], []).append(float(row[value]))
    yield f"{group:<12} {'count':>7} {'min':>9} {'mean':>9} {'max':>9}"
    for name, values in sorted(groups.items(), key=lambda item: item[0].encode()):
        total = 0.0
        for number in values:  # sum() rounds differently since Python 3.12
            total += number
        mean = total / len(values)
        yield f"{name:<12} {len(values):>7} {min(values):>9.2f} {mean:>9.2f} {max(values):>9.2f}"


def mandelbrot(width, height, limit):
    def shade(re, im):
        x = y = 0.0
        for i in range(limit):
            xx, yy = x * x, y * y
            if xx + yy > 4:
                return 255 - i * 255 // limit
            y = 2 * x * y + im
            x = xx - yy + re
        return 0

    head = f"P5\n{width} {height}\n255\n".encode()
    return head + bytes(
        shade(-2.0 + 3.0 * column / (width - 1), -1.5 + 3.0 * row / (height - 1))
        for row in range(height)
        for column in range(width)
    )


def decode(data):
    """An 8-bit PNG without a palette: (width, height, channels, rows)."""
    at, packed = 8, b""
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, color = struct.unpack(">IIBB", body[:10])
            assert depth == 8
            channels = {0: 1, 2: 3, 4: 2, 6: 4}[color]
        elif kind == b"IDAT":
            packed += body
        at += 12 + length
    raw, stride, above, rows = zlib.decompress(packed), width * channels, bytes(width * channels), []
    for y in range(height):
        line = raw[y * (stride + 1) : (y + 1) * (stride + 1)]
        kind, row = line[0], bytearray(line[1:])
        for x in range(stride):
            left = row[x - channels] if x >= channels else 0
            corner = above[x - channels] if x >= channels else 0
            up = above[x]
            estimate = left + up - corner
            paeth = min((abs(estimate - v), i, v) for i, v in enumerate((left, up, corner)))[2]
            row[x] = (row[x] + (0, left, up, (left + up) // 2, paeth)[kind]) & 255
        above = bytes(row)
        rows.append(above)
    return width, height, channels, rows


def blur(width, height, channels, rows):
    row = ((-2, 1), (-1, 4), (0, 6), (1, 4), (2, 1))
    clamp = lambda value, size: max(0, min(size - 1, value))

    def across(line):
        for x in range(width):
            for c in range(channels):
                yield (sum(w * line[clamp(x + d, width) * channels + c] for d, w in row) + 8) // 16

    first = [bytes(across(line)) for line in rows]
    return [
        bytes(
            (sum(w * first[clamp(y + d, height)][at] for d, w in row) + 8) // 16
            for at in range(width * channels)
        )
        for y in range(height)
    ]


def edges(width, height, channels, rows):
    grey = [
        [(77 * r + 150 * g + 29 * b) // 256 for r, g, b in zip(line[::3], line[1::3], line[2::3])]
        for line in rows
    ]
    at = lambda x, y: grey[max(0, min(height - 1, y))][max(0, min(width - 1, x))]
    column = lambda x, y: at(x, y - 1) + 2 * at(x, y) + at(x, y + 1)
    line = lambda x, y: at(x - 1, y) + 2 * at(x, y) + at(x + 1, y)
    return [
        bytes(
            min(255, abs(column(x + 1, y) - column(x - 1, y)) + abs(line(x, y + 1) - line(x, y - 1)))
            for x in range(width)
        )
        for y in range(height)
    ]


def check_images(folder):
    picture = decode((INPUTS / "sunset.png").read_bytes())
    for name, filtered in ("blur", blur), ("edges", edges):
        got = decode((folder / f"sunset-{name}.png").read_bytes())[3]
        assert got == filtered(*picture), f"{name}: other pixels"
        print(f"{name}: the same pixels")


def chance(state=1):
    """Pseudo-random numbers: xorshift, as in the tasks that talk."""
    while True:
        state ^= state << 13 & MASK
        state ^= state >> 7
        state ^= state << 17 & MASK
        yield state


def fnv(words):
    state = 0xCBF29CE484222325
    for word in words:
        state = (state ^ word) * 0x100000001B3 & MASK
    return state


def talk_count(size, text):
    text = (text * (size // len(text) + 1))[:size]
    counts = collections.Counter(re.findall(rb"[0-9A-Za-z\x80-\xff]+", text))
    yield f"{counts.total()} words, {len(counts)} different\n"
    for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:5]:
        yield f"{count} {word.decode()}\n"


def talk_sort(count, seed):
    def number(index):
        mixed = seed + (index + 1) * 0x9E3779B97F4A7C15 & MASK
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & MASK
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & MASK
        return mixed >> 32

    numbers = sorted(map(number, range(count)))
    tenths = " ".join(str(numbers[(count - 1) * tenth // 10]) for tenth in range(11))
    pages = (fnv(numbers[at : at + 16384]) for at in range(0, count, 16384))
    yield f"{count} numbers {tenths} {fnv(pages):016x}\n"


def talk_pipeline(blocks, size):
    made = itertools.islice(chance(), blocks * size // 8)
    turned = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
    words = struct.iter_unpack("<Q", b"".join(struct.pack("<Q", word) for word in made).translate(turned))
    yield f"{blocks} blocks made\n{blocks} blocks turned\n"
    yield f"{blocks} blocks summed: {fnv(word for (word,) in words):016x}\n"


def talk_primes(workers, below, block):
    sieve = bytearray([0, 0]) + bytearray([1]) * (below - 2)
    for number in range(2, int(below**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, below, number)))
    yield f"{sum(sieve)} primes below {below}, {-(-below // block)} jobs, {workers} workers\n"


def talk_bodies(count, steps):
    state = ((number >> 11) / (1 << 53) - 0.5 for number in chance())
    bodies = [list(itertools.islice(state, 7)) for _ in range(count)]
    for body in bodies:
        body[6] = (body[6] + 1.0) / count

    def square(one, other):
        x, y, z = (other[axis] - one[axis] for axis in range(3))
        return x * x + y * y + z * z + 1e-2

    def energy():
        total = 0.0
        for at, one in enumerate(bodies):
            total += 0.5 * one[6] * (one[3] * one[3] + one[4] * one[4] + one[5] * one[5])
            for other in bodies[at + 1 :]:
                total -= one[6] * other[6] / math.sqrt(square(one, other))
        return total

    def moved(body):
        pull = [0.0] * 3
        for other in bodies:
            apart = square(body, other)
            strength = other[6] / (apart * math.sqrt(apart))
            for axis in range(3):
                pull[axis] += (other[axis] - body[axis]) * strength
        after = body[:]
        for axis in range(3):
            after[3 + axis] += pull[axis] * 1e-3
            after[axis] += after[3 + axis] * 1e-3
        return after

    before = energy()
    for _ in range(steps):
        bodies = [moved(body) for body in bodies]
    bits = (struct.unpack("<Q", struct.pack("<d", number))[0] for body in bodies for number in body)
    yield f"{count} bodies, {steps} steps; energy {before:.9f} then {energy():.9f}; {fnv(bits):016x}\n"


def main():
    if sys.argv[1:2] == ["--images"]:
        return check_images(Path(sys.argv[2]))
    table = "\n".join(statistics("region", "amount")) + "\n"
    (HERE / "sales-by-region.txt").write_text(table, encoding="utf-8")
    (HERE / "mandelbrot-64.pgm").write_bytes(mandelbrot(64, 64, 100))
    _, text = (INPUTS / "count.txt").read_bytes().split(b"\n", 1)
    for name, said in {
        "count": talk_count(1_000_000, text),
        "sort": talk_sort(1_000_000, 7),
        "pipeline": talk_pipeline(40, 65536),
        "primes": talk_primes(3, 100_000, 1000),
        "bodies": talk_bodies(100, 50),
    }.items():
        (HERE / f"talk-{name}.txt").write_text("".join(said), encoding="utf-8")


if __name__ == "__main__":
    main()
