"""Every refusal and every end that can be provoked, while upstream shouts every credential.

Relays are processes at debug level. What they answer, log and show is searched at the end, and
their logs say that nothing of the closed sets was left out.
"""

import asyncio
import signal
from collections import deque
from pathlib import Path

import pytest
from tests.e2e.clients import DESKTOPS, SseClient, ask, eventually
from tests.hardening.echo import AWAY, FORMS, STATUSES, Echo
from tests.hardening.places import canary
from tests.hardening.searcher import Searcher
from tests.hardening.stage import Told, launch, operator_order

from lebureau_relay.errors import CloseReason, RefusalCode

QUICK = {"UPSTREAM__CONNECT_TIMEOUT": 2, "FEED__LINGER": 0.1}


class Stand:
    """An echoing upstream, relays before it, and the secrets that were used."""

    def __init__(self, echo: Echo, folder: Path) -> None:
        self.echo = echo
        self.told = Told()
        self.secrets: dict[str, str] = {}
        self.relays = []
        self.codes: set[str] = set()
        self.reasons: set[str] = set()
        self._folder = folder

    async def serve(self, url: str = "", **settings):
        chosen = QUICK | {"UPSTREAM__BASE_URL": url or self.echo.url} | settings
        relay = await launch(self._folder, chosen)
        self.relays.append(relay)
        return await relay.started()

    def write(self, name: str, text: str) -> Path:
        file = self._folder / name
        file.write_text(text)
        return file

    def key(self, *answers: str, name: str = "", me: tuple[str, ...] = ()) -> str:
        """A fresh key, and how upstream will answer it."""
        secret = canary()
        self.secrets[f"{name or answers}, {me}"] = secret
        if answers:
            self.echo.answers[secret] = deque(answers)
        if me:
            self.echo.identities[secret] = deque(me)
        return secret

    async def ask(self, relay, code: str, path=DESKTOPS, **request) -> None:
        """A request that must be refused in this way, as programs get it and as browsers do."""
        reply = await ask(relay.public_url, path, **request)
        self.told.add(f"{code} for {request}", reply.raw)
        assert reply.status == RefusalCode(code).status, reply.raw
        assert reply.status == 204 or reply.code == code

    async def open(self, relay, path=DESKTOPS, **request) -> SseClient:
        return await (await SseClient.connect(relay.public_url, path, **request)).opened()

    async def ended(self, client: SseClient, reason: str) -> None:
        await client.ended()
        self.told.add(reason, bytes(client.raw))
        assert client.reason == reason

    async def leave(self, relay) -> None:
        """What the relay has to show for it, and its end."""
        await self.told.look_at(relay, "relay")
        relay.signal(signal.SIGTERM)
        await self.gone(relay)

    async def gone(self, relay) -> None:
        assert await relay.exit() == 0
        self.told.add("log", relay.stderr)
        self.codes |= {str(line["code"]) for line in relay.said("request.refused")}
        self.reasons |= {str(line["reason"]) for line in relay.said("stream.closed")}

    def assert_clean(self) -> None:
        for head in self.echo.heads:
            lines = head.split(b"\r\n")
            proper = [n for n in lines if n.lower().startswith((b"x-api-key:", b"cookie:"))]
            assert len(proper) == 1
            self.told.add("upstream", b"\r\n".join(n for n in lines if n not in proper))
        Searcher(self.secrets).assert_clean(self.told.texts)


@pytest.fixture
async def stand(tmp_path):
    echo = Echo()
    await echo.start()
    made = Stand(echo, tmp_path)
    yield made
    for relay in made.relays:
        await relay.kill()
    await echo.stop()


async def refused_at_once(stand: Stand) -> None:
    """Everything that the edge and upstream's first answer refuse."""
    relay = await stand.serve(CORS__ALLOWED_ORIGINS='["https://app.example"]')
    one, two = stand.key(name="conflicting"), stand.key(name="other")
    await stand.ask(relay, "conflicting_credentials", key=one, path=f"{DESKTOPS}?apiKey={two}")
    cookies = [("Cookie", f"__Host-{n}={one * 110}") for n in range(3)]
    await stand.ask(relay, "bad_request", headers=cookies)
    await stand.ask(relay, "missing_credential", path=f"{DESKTOPS}?apikey={one}")
    await stand.ask(
        relay, "origin_not_allowed", key=one, headers=[("Origin", f"http://{two}.example")]
    )
    await stand.ask(relay, "not_found", path=f"/{one}?apiKey={one}")
    await stand.ask(relay, "method_not_allowed", path=f"{DESKTOPS}?apiKey={one}", method="POST")
    await stand.ask(relay, "upstream_ended", key=stand.key("204"))
    await stand.ask(relay, "invalid_credential", key=stand.key("401"))
    await stand.ask(relay, "forbidden", key=stand.key("403"))
    cookie = stand.key("401", name="cookie")
    await stand.ask(relay, "invalid_credential", cookie=f"__Host-session={cookie}")
    errors = ("404", "405", "410", "html", "odd type", "broken type", "no type")
    for form in (*errors, "redirect here", "redirect away", "redirect nowhere"):
        await stand.ask(relay, "upstream_error", key=stand.key(form))
    broken = ("garbage", "broken status", "broken field", "broken length", "retry after")
    for form in ("500", "502", "503", "599", "429", *broken):
        secret = stand.key(form)
        await stand.ask(relay, "upstream_unavailable", key=secret)
        browser = [("Accept", "text/event-stream"), ("Sec-Fetch-Mode", "cors")]
        path = f"{DESKTOPS}?apiKey={secret}&lastEventId={secret}"
        soft = await ask(relay.public_url, path, headers=browser)
        assert b"relay.refused" in soft.body
        stand.told.add(f"softly for {form}", soft.raw)
    await stand.leave(relay)


async def refused_by_limits(stand: Stand) -> None:
    relay = await stand.serve(
        LIMITS__STREAMS_PER_USER=1,
        LIMITS__CONNECTS_PER_MINUTE=2,
        LIMITS__FAILED_AUTH_PER_MINUTE=1,
        LIMITS__STREAMS_TOTAL=3,
        DRAIN__DELAY=0,
        DRAIN__SPREAD=30,
    )
    one, two, three, four = (stand.key("stream", name=f"limits {n}") for n in range(4))
    client = await stand.open(relay, key=one)
    await stand.ask(relay, "too_many_streams", key=one)
    client.close()
    await eventually(lambda: relay.said("stream.closed"))
    stay = [await stand.open(relay, key=two), await stand.open(relay, key=three)]
    client = await stand.open(relay, key=one)
    await stand.ask(relay, "at_capacity", key=four)
    client.close()
    await eventually(lambda: len(relay.said("stream.closed")) == 2)
    await stand.ask(relay, "rate_limited", key=one)
    await stand.ask(relay, "invalid_credential", key=stand.key("401", name="first failure"))
    await stand.ask(relay, "too_many_failures", key=stand.key("401", name="second failure"))
    await stand.told.look_at(relay, "relay")
    relay.signal(signal.SIGTERM)
    await eventually(lambda: relay.said("relay.draining"))
    await stand.ask(relay, "draining", key=one)
    relay.signal(signal.SIGTERM)
    await stand.gone(relay)
    for client in stay:
        stand.told.add("stream", bytes(client.raw))


async def refused_by_identity(stand: Stand) -> None:
    relay = await stand.serve(AUTH__IDENTITY_PATH="/v1/me", AUTH__RECHECK_INTERVAL=0.5)
    forms = ("500", "html", "me no json", "me without", "redirect here", "redirect away", "204")
    for form in (*forms, "garbage", "broken field", "broken length", "404", "429", "retry after"):
        await stand.ask(relay, "identity_unavailable", key=stand.key("stream", me=(form,)))
    await stand.ask(relay, "invalid_credential", key=stand.key("stream", me=("401",)))
    await stand.ask(relay, "forbidden", key=stand.key("stream", me=("403",)))
    revoked = [
        await stand.open(relay, key=stand.key("stream", me=("me", "500", form)))
        for form in ("401", "403")
    ]
    for client in revoked:
        await stand.ended(client, "credential_revoked")
    await stand.leave(relay)


async def ended_by_upstream(stand: Stand) -> None:
    """An open stream, and every form in which upstream may answer when it is asked again."""
    relay = await stand.serve()
    secrets = {form: stand.key("stream", form, "stream") for form in FORMS}
    clients = {form: await stand.open(relay, key=secret) for form, secret in secrets.items()}
    for secret in secrets.values():
        await eventually(lambda secret=secret: stand.echo.open.get(secret))
        stand.echo.cut(secret)
    final = {"204": "upstream_ended", "401": "credential_revoked", "403": "credential_revoked"}
    for form, reason in final.items():
        await stand.ended(clients[form], reason)
    for form in clients.keys() - final.keys():
        await eventually(lambda secret=secrets[form]: stand.echo.open.get(secret), said=form)
    assert {line["status"] for line in relay.said("upstream.refused")} >= {*STATUSES} - {
        204,
        401,
        403,
    }
    # Gone altogether, and there again.
    port = int(stand.echo.url.rpartition(":")[2])
    await stand.echo.stop()
    said = len(relay.said("upstream.refused"))
    await eventually(lambda: len(relay.said("upstream.refused")) > said + len(secrets))
    await stand.echo.start(port)
    for form in clients.keys() - final.keys():
        assert not clients[form].closed
        clients[form].close()
        stand.told.add(f"stream after {form}", bytes(clients[form].raw))
    await eventually(lambda: len(relay.said("stream.closed")) == len(clients))
    await stand.leave(relay)


async def ended_by_limits(stand: Stand) -> None:
    token = stand.key(name="token")
    file = stand.write("token", token)
    relay = await stand.serve(
        LIMITS__STREAMS_PER_USER=1,
        LIMITS__ON_EXCESS="retire_oldest",
        STREAM__BUFFER_BYTES=1024,
        STREAM__WRITE_TIMEOUT=0.5,
        ADMIN__TOKEN_FILE=file,
    )
    shared = stand.key("stream", name="retired")
    first = await stand.open(relay, key=shared)
    second = await stand.open(relay, key=shared)
    await stand.ended(first, "retired")
    second.abort()
    stuck_key = stand.key("stream", name="stuck")
    stuck = await stand.open(relay, key=stuck_key, receive_bytes=4096)
    stuck.transport.pause_reading()
    await eventually(lambda: stand.echo.open.get(stuck_key))
    stand.echo.open[stuck_key][0].write((b"data: " + b"x" * 100_000 + b"\n\n") * 40)
    closed = relay.said
    await eventually(lambda: any(c["reason"] == "slow" for c in closed("stream.closed")), 10)
    stuck.abort()
    given = await stand.open(relay, key=stand.key("stream", name="operated"))
    reply = await ask(relay.admin_url, raw=operator_order(token))
    assert reply.status == 200
    stand.told.add("answer to an operator", reply.raw)
    await stand.ended(given, "operator")
    await eventually(lambda: any(c["reason"] == "client_gone" for c in closed("stream.closed")))
    await stand.leave(relay)


async def refused_by_tls(stand: Stand) -> None:
    """An upstream that speaks no TLS where it should, and one that isn't there."""
    for url in (stand.echo.url.replace("http:", "https:"), "http://127.0.0.1:9"):
        relay = await stand.serve(url)
        await stand.ask(relay, "upstream_unavailable", key=stand.key(name=url))
        await stand.leave(relay)


async def ended_by_age(stand: Stand) -> None:
    relay = await stand.serve(STREAM__MAX_AGE=0.5)
    await stand.ended(await stand.open(relay, key=stand.key("stream", name="aged")), "max_age")
    await stand.leave(relay)


async def ended_by_draining(stand: Stand) -> None:
    relay = await stand.serve(DRAIN__SPREAD=0)
    client = await stand.open(relay, key=stand.key("stream", name="drained"))
    relay.signal(signal.SIGTERM)
    await stand.ended(client, "draining")
    await stand.gone(relay)


async def test_no_refusal_and_no_end_tells_a_secret(stand):
    await asyncio.gather(
        refused_at_once(stand),
        refused_by_limits(stand),
        refused_by_identity(stand),
        ended_by_limits(stand),
        ended_by_age(stand),
        refused_by_tls(stand),
        ended_by_draining(stand),
    )
    await ended_by_upstream(stand)  # alone, since it takes upstream away
    stand.assert_clean()
    # Failures inside are in test_crashes.py; nobody outside can make the relay rebalance.
    assert set(RefusalCode) - stand.codes == {"internal_error"}
    assert set(CloseReason) - stand.reasons == {"internal_error", "rebalanced"}


async def test_a_redirect_that_holds_the_credential_is_not_followed(stand):
    relay = await stand.serve()
    assert "{c}" in AWAY
    await stand.ask(relay, "upstream_error", key=stand.key("redirect here"))
    assert len(stand.echo.heads) == 1
    stand.assert_clean()
