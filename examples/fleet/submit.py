#!/usr/bin/env python3
"""Submits tasks to a fleet of wrun with nats-py, and prints their outputs.

    pip install nats-py blake3
    python3 submit.py nats://127.0.0.1:4222 task.wasm one two three

Each argument is the input of a task of its own. Needs nothing of wrun: the messages are those of
docs/fleet.md. The streams and buckets must be there: the first `wrun worker` makes them.
"""

import asyncio
import base64
import json
import sys
import uuid

import nats
from blake3 import blake3
from nats.js.errors import NotFoundError


async def main(url, path, inputs):
    client = await nats.connect(url)
    jetstream = client.jetstream()
    results = await jetstream.key_value("wrun_results")

    # A module is stored once, under its digest.
    with open(path, "rb") as file:
        module = file.read()
    digest = blake3(module).hexdigest()
    modules = await jetstream.object_store("wrun_modules")
    try:
        await modules.get_info(digest)
    except NotFoundError:
        await modules.put(digest, module)

    # Results of this batch come as they are stored; ids have the batch as their first part.
    batch = uuid.uuid4().hex
    watch = await results.watch(f"{batch}.>")

    for number, text in enumerate(inputs):
        task = {
            "v": 1,
            "id": f"{batch}.{number}",
            "module": {"blake3": digest},
            "name": path.rsplit("/", 1)[-1],
            "input": {"text": text},
            "limits": {"timeout_ms": 60_000},
        }
        # Published again within two minutes, it is the same message.
        await jetstream.publish(
            "wrun.task.normal.python",
            json.dumps(task).encode(),
            headers={"Nats-Msg-Id": task["id"]},
        )

    failed = 0
    waiting = {f"{batch}.{number}": text for number, text in enumerate(inputs)}
    async for entry in watch:
        if entry is None:
            continue
        result = json.loads(entry.value)
        text = waiting.pop(result["id"])
        report = result.get("report", {})
        kind = report.get("outcome", {}).get("kind", result["kind"])
        if kind == "completed":
            output = report.get("stdout", "").encode()
            if "stdout_base64" in report:
                output = base64.b64decode(report["stdout_base64"])
            if "stdout" in result:
                objects = await jetstream.object_store("wrun_objects")
                output = (await objects.get(result["stdout"]["name"])).data
            print(f"{text}: {output.decode(errors='replace').rstrip()}")
        else:
            failed += 1
            print(f"{text}: {kind}: {result.get('why', '')}", file=sys.stderr)
        if not waiting:
            break
    await client.close()
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:])))
