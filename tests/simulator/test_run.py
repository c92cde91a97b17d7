"""The simulator as a program: it says how to try it, and ends cleanly on a signal."""

import asyncio
import re
import signal
import sys

import aiohttp
import pytest

PROGRAM = """
import sys
from lebureau_relay.simulator import SimulatorOptions, run
sys.exit(run(port=0, options=SimulatorOptions(rate=50.0)))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_greets_serves_and_ends_cleanly_with_a_stream_open(number):
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20), aiohttp.ClientSession() as session:
        greeting = [(await program.stdout.readline()).decode() for _ in range(5)]
        key, url = re.search(r"curl -N -H 'x-api-key: (\S+)' (\S+)", greeting[2]).groups()
        assert f"A key: {key}" in greeting[1]
        async with session.get(url, headers={"x-api-key": key}) as answer:
            assert (await answer.content.readline()).startswith(b"id: evt_")
            order, body = re.search(r"curl (\S+) -d '(.+)' ", greeting[3]).groups()
            async with session.post(order, data=body) as done:  # as curl sends it: no JSON's type
                assert await done.json() == {"done": 1}
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        async with session.get(url, headers={"x-api-key": key}) as answer:
            program.send_signal(number)
            out, err = await program.communicate()
    assert (program.returncode, out, err) == (0, b"", b"")
