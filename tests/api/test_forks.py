"""Child processes of a façade that serves on uvloop, which forks them plainly while gRPC's threads work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHILDREN = 100
FACADE = """
import asyncio, json, sys
import api
import grpc, uvloop
from grpc import aio

async def answer(request, context):
    return request

async def main(count):
    server = aio.server()
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Echo", {"Say": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        async def call():
            while True:
                await channel.unary_unary("/test.Echo/Say")(b"hello")
        calls = [asyncio.create_task(call()) for _ in range(8)]
        statuses = []
        for _ in range(count):
            child = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", "pass")
            statuses.append(await asyncio.wait_for(child.wait(), 10))
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    await server.stop(None)
    print(json.dumps(statuses))

uvloop.run(main(int(sys.argv[1])))
"""


def test_no_child_crashes_while_calls_are_under_way() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FACADE, str(CHILDREN)], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == [0] * CHILDREN
