"""The admin listener of a real process: it answers its own names, does nothing for strangers, and
what operators may do works as docs/operations.md says.
"""

import asyncio
import json
import re
from pathlib import Path

import pytest
from tests.e2e.clients import ask, eventually, head

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
TOKEN = "correct-horse-battery-staple"
ALL = {"all": True, "reason": "maintenance"}
SHOWN = ("/", "/console.js", "/charts.js", "/status", "/events")


@pytest.fixture
def token_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("secrets") / "operators"
    path.write_text(f"{TOKEN}\n")
    return path


@pytest.fixture
async def relay(simulator, program, token_file):
    settings = {"ADMIN__TOKEN_FILE": token_file, "LIMITS__CONNECTS_PER_MINUTE": 0}
    return await (await program(simulator.url, settings=settings)).started()


def order(said: object, token: str = TOKEN, *headers: tuple[str, str], host: str = "localhost"):
    body = json.dumps(said).encode()
    fields = [("Content-Length", str(len(body))), ("Connection", "close"), *headers]
    fields += [("Authorization", f"Bearer {token}")] if token else []
    request = head("/operator/end", method="POST", headers=fields) + body
    return request.replace(b"Host: localhost", f"Host: {host}".encode())


async def identity_of(relay, user, connect) -> tuple[str, list]:
    """Two streams of one user, and the hash that operators see of it."""
    known = await hashes(relay)
    clients = [await connect(relay.public_url, key=user.key) for _ in range(2)]
    (name,) = await hashes(relay) - known
    return name, clients


async def hashes(relay) -> set[str]:
    status = json.loads((await ask(relay.admin_url, "/status")).body)
    return {feed["identity"] for feed in status["feed_list"]}


async def test_the_streams_of_one_identity_end_with_a_reason(relay, simulator, connect, counts):
    name, theirs = await identity_of(relay, simulator.user(1), connect)
    _, others = await identity_of(relay, simulator.user(2), connect)
    said = {"identity": name, "reason": "lost laptop"}
    reply = await ask(relay.admin_url, raw=order(said))
    assert json.loads(reply.body) == {"ended": 2}
    for client in theirs:
        await client.ended()
        assert (client.reason, client.finished) == ("operator", True)
    assert not any(client.closed for client in others)
    await eventually(lambda: len(relay.said("stream.closed")) == 2)
    (line,) = relay.said("operator.end")
    assert (line["identity"], line["reason"], line["ended"]) == (name, "lost laptop", 2)
    assert [one["reason"] for one in relay.said("stream.closed")] == ["operator"] * 2
    await counts(relay, 2, "closes_total", reason="operator")
    again = await connect(relay.public_url, key=simulator.user(1).key)
    assert again.status == 200, "it ends streams, and keeps nobody out"


async def test_as_the_documentation_has_it(relay, simulator, connect, token_file):
    """Each line is run as it stands, with one's own address, file and hash."""
    name, clients = await identity_of(relay, simulator.user(1), connect)
    lines = re.findall(r"^printf .* curl .*$", OPERATIONS.read_text(), re.MULTILINE)
    assert len(lines) == 2
    for line, ended in zip(lines, (2, 1), strict=True):
        mine = line.replace("http://127.0.0.1:9090", relay.admin_url).replace("<hash>", name)
        mine = mine.replace("/run/secrets/relay-operators", str(token_file))
        shell = await asyncio.create_subprocess_shell(mine, stdout=asyncio.subprocess.PIPE)
        out, _ = await shell.communicate()
        assert json.loads(out) == {"ended": ended}
        for client in clients:
            await client.ended()
        clients = [await connect(relay.public_url)]


async def test_guesses_end_nothing_and_are_seen(relay, connect, counts):
    client = await connect(relay.public_url)
    guesses = ["", "guess", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "*", "x" * 4000, "\xff"]
    for guess in guesses * 5:
        reply = await ask(relay.admin_url, raw=order(ALL, guess))
        assert (reply.status, reply.code) == (401, "invalid_credential")
    await counts(relay, len(guesses) * 5, "refusals_total", code="invalid_credential")
    assert len(relay.said("operator.refused")) == 1
    assert TOKEN not in relay.stderr
    assert "guess" not in relay.stderr
    assert not client.closed
    reply = await ask(relay.admin_url, raw=order(ALL))
    assert json.loads(reply.body) == {"ended": 1}, "guesses lock no operator out"


@pytest.mark.parametrize(
    ("headers", "host"),
    [
        ([("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "cors")], "localhost"),
        ([("Sec-Fetch-Site", "same-site"), ("Sec-Fetch-Mode", "no-cors")], "localhost"),
        ([], "evil.example"),
        ([], "localhost.evil.example"),
    ],
)
async def test_no_page_ends_streams_not_even_with_the_token(relay, connect, headers, host):
    client = await connect(relay.public_url)
    reply = await ask(relay.admin_url, raw=order(ALL, TOKEN, *headers, host=host))
    assert (reply.status, reply.code) == (403, "forbidden")
    assert not client.closed


async def test_a_form_of_another_site_orders_nothing(relay, connect):
    client = await connect(relay.public_url)
    form = (("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"))
    for token in ("", TOKEN):
        reply = await ask(relay.admin_url, raw=order(ALL, token, *form))
        assert (reply.status, reply.code) == (403, "forbidden")
    assert not client.closed


async def test_a_name_that_was_bound_to_this_address_gets_probes_and_metrics_only(relay, counts):
    def request(path: str) -> bytes:
        return b"GET %b HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n" % path.encode()

    for path in SHOWN:
        reply = await ask(relay.admin_url, raw=request(path))
        assert (reply.status, reply.code) == (403, "forbidden"), path
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await ask(relay.admin_url, raw=request(path))).status == 200, path
    await counts(relay, len(SHOWN), "refusals_total", code="forbidden")
    await eventually(lambda: len(relay.said("request.refused")) >= len(SHOWN))
    lines = [(line["code"], line["listener"]) for line in relay.said("request.refused")]
    assert lines == [("forbidden", "admin")] * len(SHOWN)
    assert "evil.example" not in relay.stderr


async def test_without_a_token_file_there_is_no_verb(simulator, program, connect):
    relay = await (await program(simulator.url)).started()
    client = await connect(relay.public_url)
    for token in ("", "guess"):
        reply = await ask(relay.admin_url, raw=order(ALL, token))
        assert (reply.status, reply.code) == (404, "not_found")
    assert not client.closed


@pytest.mark.parametrize(
    ("content", "mend"),
    [
        (None, "can't be read (No such file or directory); give the path of a file"),
        ("directory", "can't be read (Is a directory); give the path of a file"),
        (b"", "empty file; put the secret into it"),
        (b" \n", "empty file; put the secret into it"),
        (b"\xff\xfe", "can't be read (not UTF-8 text)"),
        (b"guessable\n", "openssl rand -hex 32"),
    ],
)
async def test_a_token_file_that_will_not_do_is_no_start(program, tmp_path, content, mend):
    path = tmp_path / "operators"
    if content == "directory":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    relay = await program("http://127.0.0.1:9", settings={"ADMIN__TOKEN_FILE": path})
    assert await relay.exit() == 2
    await eventually(lambda: relay.stderr)
    assert "admin.token_file" in relay.stderr
    assert mend in relay.stderr
    assert "guessable" not in relay.stderr
    assert "Traceback" not in relay.stderr
