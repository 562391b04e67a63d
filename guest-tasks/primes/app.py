"""The primes up to a number, as text: a task in Python.

componentize-py finds the class that implements the world's one export.
"""

# At the top, not inside a function: the built component contains no standard
# library to import from.
import json

import wit_world
from componentize_py_types import Err


class WitWorld(wit_world.WitWorld):
    def run(self, input: bytes) -> bytes:
        text = input.decode("utf-8", "replace").strip()
        if not text.isdigit():
            # `failed`, with this text; any other exception would be a trap
            raise Err(f"{text!r} is not a number")
        limit = int(text)
        sieve = bytearray([1]) * (limit + 1)
        sieve[0:2] = bytes(min(2, limit + 1))
        for number in range(2, int(limit**0.5) + 1):
            if sieve[number]:
                sieve[number * number :: number] = bytes(len(range(number * number, limit + 1, number)))
        primes = [number for number, prime in enumerate(sieve) if prime]
        return (json.dumps({"up_to": limit, "count": len(primes), "last": primes[-5:]}) + "\n").encode()
