"""Two of the workers of ../talk/, in Python, with the calls that copy.

`pong` sends back what comes; `map` counts words of a range of a text, which comes as a
frozen region. componentize-py imports all that `wit/` names: wrun provides it.
"""

import re
import struct
from collections import Counter

import wit_world
from componentize_py_types import Err
from wit_world.imports import ports

WORD = re.compile(rb"[0-9A-Za-z\x80-\xff]+")


class WitWorld(wit_world.WitWorld):
    def run(self, input: bytes) -> bytes:
        port = ports.parent()
        if port is None:
            raise Err("nobody to talk to")
        if input == b"pong":
            return pong(port)
        if input == b"map":
            return count(port)
        raise Err("pong or map")


def pong(port: ports.Port) -> bytes:
    answered = 0
    while True:
        try:
            message = port.receive()
        except Err as error:
            if error.value == ports.PortError.CLOSED:
                return f"{answered} answered\n".encode()
            raise Err(error.value.name)
        port.send(message)
        answered += 1


def count(port: ports.Port) -> bytes:
    message = port.receive()
    start, end = struct.unpack("<QQ", message.data)
    region = message.regions[0]
    # Reads from the byte before, to find out whether a word that began there is another task's.
    first = max(start - 1, 0)
    text = region.read(first, region.len() - first)
    words = (word for word in WORD.finditer(text) if start <= first + word.start() < end)
    counts = Counter(word[0] for word in words)
    return b"".join(b"%d %s\n" % (times, word) for word, times in counts.items())
