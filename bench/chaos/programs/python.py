"""Python's libraries, and curl, as their documentation has them: `python.py LIBRARY`.

What to ask for stands in the environment (CHAOS_URL, CHAOS_HEADERS), which nobody else may read.
No redirect is followed: nobody but who was asked gets the headers.

None of them comes back by itself; each is in a loop that names the last id, as a script would have
it. One line for each event: JSON with kind, id, data and milliseconds since the epoch.
"""

import asyncio
import json
import os
import subprocess
import sys
import time

_RETRY_S = 0.2
_READ_BYTES = 65_536
# No silence is this long: the relay's heartbeat comes sooner.
_SILENCE_S = float(os.environ.get("CHAOS_SILENCE_S", "5"))


class Notes:
    """What the application hears, and where it would go on."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.last_id = ""
        self._headers = headers

    @property
    def headers(self) -> dict[str, str]:
        cursor = {"Last-Event-ID": self.last_id} if self.last_id else {}
        return {"Accept": "text/event-stream"} | self._headers | cursor

    def take(self, event_id: str | None, kind: str | None, data: str) -> None:
        if event_id:
            self.last_id = event_id
        at_ms = time.time_ns() // 1_000_000
        line = {"kind": kind or "message", "id": self.last_id, "data": data, "t": at_ms}
        print(json.dumps(line), flush=True)


class Lines:
    """For clients that hand out lines: the naive reader that most scripts have."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._fields: dict[str, str] = {}

    def take(self, line: str) -> None:
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data" and name in self._fields:
                value = f"{self._fields[name]}\n{value}"
            if name in {"id", "event", "data"}:
                self._fields[name] = value
            return
        fields, self._fields = self._fields, {}
        if "data" in fields:
            self._notes.take(fields.get("id"), fields.get("event"), fields["data"])


def use_requests(url: str, notes: Notes) -> None:
    import requests

    lines = Lines(notes)
    with requests.get(
        url, headers=notes.headers, stream=True, timeout=_SILENCE_S, allow_redirects=False
    ) as response:
        response.raise_for_status()
        # Byte by byte: `iter_lines` waits for 512, or takes CR LF in two chunks for two ends.
        line = bytearray()
        for byte in response.iter_content(chunk_size=1):
            line += byte
            if byte == b"\n":
                lines.take(line.decode().rstrip("\r\n"))
                line.clear()


def use_sseclient(url: str, notes: Notes) -> None:
    import requests
    import sseclient

    # What is read below nobody unpacks.
    headers = notes.headers | {"Accept-Encoding": "identity"}
    with requests.get(
        url, headers=headers, stream=True, timeout=_SILENCE_S, allow_redirects=False
    ) as response:
        response.raise_for_status()
        # What has come, not the next 128 bytes: a stream without chunks would keep its last event.
        came = iter(lambda: response.raw.read1(_READ_BYTES), b"")
        for event in sseclient.SSEClient(came).events():
            notes.take(event.id, event.event, event.data)


def use_httpx_sse(url: str, notes: Notes) -> None:
    import httpx
    import httpx_sse

    with (
        httpx.Client(timeout=_SILENCE_S) as client,
        httpx_sse.connect_sse(client, "GET", url, headers=notes.headers) as source,
    ):
        source.response.raise_for_status()
        for event in source.iter_sse():
            notes.take(event.id, event.event, event.data)


def use_aiohttp(url: str, notes: Notes) -> None:
    import aiohttp

    async def read() -> None:
        lines = Lines(notes)
        timeout = aiohttp.ClientTimeout(total=None, sock_read=_SILENCE_S)
        async with (
            aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session,
            session.get(url, headers=notes.headers, allow_redirects=False) as response,
        ):
            async for line in response.content:
                lines.take(line.decode().rstrip("\r\n"))

    asyncio.run(read())


def use_curl(url: str, notes: Notes) -> None:
    lines = Lines(notes)
    argv = ["curl", "-sN", "--fail", "--speed-limit", "1", "--speed-time", f"{_SILENCE_S:.0f}"]
    asked = {"url": [url], "header": [f"{name}: {value}" for name, value in notes.headers.items()]}
    # JSON's quotes are those of curl's configuration.
    lines_in = "".join(f"{key} = {json.dumps(one)}\n" for key in asked for one in asked[key])
    with subprocess.Popen(
        [*argv, "--config", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as curl:
        assert curl.stdin is not None
        assert curl.stdout is not None
        curl.stdin.write(lines_in.encode())
        curl.stdin.close()
        try:
            for line in curl.stdout:
                # What broke off has no line end; it is no line.
                if line.endswith(b"\n"):
                    lines.take(line.decode().rstrip("\r\n"))
        finally:
            curl.kill()


LIBRARIES = {
    "requests": use_requests,
    "sseclient-py": use_sseclient,
    "httpx-sse": use_httpx_sse,
    "aiohttp": use_aiohttp,
    "curl": use_curl,
}


def main(library: str) -> None:
    url = os.environ["CHAOS_URL"]
    notes = Notes(json.loads(os.environ["CHAOS_HEADERS"]))
    while True:
        try:
            LIBRARIES[library](url, notes)
        except ImportError:
            raise
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        time.sleep(_RETRY_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
