#!/usr/bin/env python3
"""Makes the generated inputs next to this file: the same bytes on every run.

Only the Python standard library. article.md is written by hand.
"""

import gzip
import math
import random
import struct
import zlib
from pathlib import Path

HERE = Path(__file__).parent


def png(width, height, rows):
    """An 8-bit RGB PNG; each row is filtered with `Up`, as encoders do."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    raw, above = bytearray(), bytes(width * 3)
    for row in rows:
        raw += b"\x02" + bytes((a - b) & 255 for a, b in zip(row, above))
        above = row
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(raw), 9))
        + chunk(b"IEND", b"")
    )


def picture(size=256):
    """A sunset: a gradient with film grain, a sun, hills and water."""
    grain = random.Random(1)
    for y in range(size):
        row = bytearray()
        for x in range(size):
            t = y / size
            color = [40 + 200 * t, 50 + 90 * t, 120 - 40 * t]
            if (x - 170) ** 2 + (y - 96) ** 2 < 34**2:
                color = [255, 220, 120]
            if y > 150 + 18 * math.sin(x / 31) + 7 * math.sin(x / 9):
                color = [30, 60 + x / 8, 45]
            if y > 205:
                shine = 20 * math.sin(x / 5 + y * y / 40)
                color = [60 + shine, 80 + shine, 120 + shine]
            noise = grain.randrange(-3, 4)
            row += bytes(max(0, min(255, int(c) + noise)) for c in color)
        yield bytes(row)


def sales(rows=4000):
    draw = random.Random(2)
    regions = {"north": 80.0, "south": 120.0, "east": 45.5, "west": 60.0, "Côte d'Or": 99.9, "a, quoted": 10.0}
    yield "day,region,product,amount"
    for index in range(rows):
        region = draw.choice(list(regions))
        name = f'"{region}"' if "," in region else region
        amount = draw.gauss(regions[region], 20)
        yield f"2026-{1 + index % 12:02}-{1 + index % 28:02},{name},p{draw.randrange(40):02},{amount:.2f}"


def main():
    (HERE / "sunset.png").write_bytes(png(256, 256, picture()))
    table = "\n".join(sales()) + "\n"
    (HERE / "sales.csv").write_text(table, encoding="utf-8")
    article = (HERE / "article.md").read_bytes()
    (HERE / "article.md.gz").write_bytes(gzip.compress(article, 9, mtime=0))
    (HERE / "count.txt").write_bytes(b"count 4 1000000\n" + article)


if __name__ == "__main__":
    main()
