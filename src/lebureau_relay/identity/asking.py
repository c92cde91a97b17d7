"""One question to upstream: is this credential good, and who is it?

It stands apart from the register because it alone touches the network and holds no state. Whatever
upstream does, the outcome is one of a closed set: only a 401 or a 403 says anything against a
credential, everything odd says nothing at all.
"""

import asyncio
import json
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Final

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout

from lebureau_relay.core.credential import Credential, CredentialKind
from lebureau_relay.core.outbound import request_headers
from lebureau_relay.errors import Refusal, RefusalCode
from lebureau_relay.identity.rules import AuthRules
from lebureau_relay.relay.ports import Identity

# From wanting to ask to knowing; a client waits behind it with its request open, as long as a
# stream may take to connect.
ASK_TIMEOUT_S: Final = 10.0
# Questions on their way at once: users who come back all together must not look like an attack.
MAX_ASKING: Final = 64
# Who somebody is fits in a page; more is a mistake or malice, and would be held once per question
# in flight.
MAX_BODY_BYTES: Final = 64 * 1024
# What a client is told to wait where upstream named nothing: long enough to calm, short enough to
# be forgiven.
RETRY_AFTER_S: Final = 5.0
# Upstream's own Retry-After is passed on up to here, as the contract bounds it for reconnects.
MAX_RETRY_AFTER_S: Final = 300.0


class Outcome(StrEnum):
    """What is known after asking."""

    ACCEPTED = "accepted"
    UNAUTHORIZED = "unauthorized"  # 401: the credential is bad
    FORBIDDEN = "forbidden"  # 403: it is genuine, and may not
    UNDECIDED = "undecided"  # an outage or an oddity: no verdict
    HELD_BACK = "held_back"  # not asked, because too many 401s happened upstream


@dataclass(frozen=True, slots=True)
class Answer:
    """An outcome with its facts.

    `identity` comes with ACCEPTED where upstream says who it is. `why` is for log lines: words of
    ours, never upstream's. `missing` names an identity field that was absent. `limit` comes with
    HELD_BACK.
    """

    outcome: Outcome
    identity: Identity | None = None
    why: str = ""
    missing: str = ""
    sets_cookie: bool = False
    retry_after_s: float | None = None
    limit: int | None = None


class MissingFieldError(ValueError):
    """An identity document lacks a field that makes up the identity; `field` is its name."""

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


class Asker:
    """The question itself. The session is the caller's; its cookie jar keeps nothing."""

    __slots__ = ("_at_once", "_hash_key", "_rules", "_session")

    def __init__(self, rules: AuthRules, hash_key: bytes, session: ClientSession) -> None:
        self._rules = rules
        self._hash_key = hash_key
        self._session = session
        self._at_once = asyncio.Semaphore(MAX_ASKING)

    async def ask(self, credential: Credential) -> Answer:
        """Ask upstream once. Never raises: what went wrong is part of the answer.

        A redirect is not followed, or the credential would travel to wherever upstream points.
        """
        headers = request_headers(credential, self._rules.api_key_header)
        headers |= {"Accept": "application/json", "Accept-Encoding": "identity"}
        headers["Cache-Control"] = "no-cache"
        if not (self._rules.identity_path or self._rules.probe_path):
            headers["Accept"] = "text/event-stream"
        try:
            async with (
                asyncio.timeout(ASK_TIMEOUT_S),
                self._at_once,
                self._session.get(
                    self._rules.url,
                    headers=headers,
                    allow_redirects=False,
                    timeout=ClientTimeout(total=ASK_TIMEOUT_S),
                ) as response,
            ):
                return await self._read(response, credential)
        except TimeoutError:
            return Answer(Outcome.UNDECIDED, why=f"no answer within {ASK_TIMEOUT_S:.0f} s")
        except (ClientError, OSError, ValueError) as error:
            # The name only: the text of such errors may quote the request.
            return Answer(Outcome.UNDECIDED, why=f"the request failed ({type(error).__name__})")

    async def _read(self, response: ClientResponse, credential: Credential) -> Answer:
        if response.status == 401:
            return Answer(Outcome.UNAUTHORIZED)
        if response.status == 403:
            return Answer(Outcome.FORBIDDEN)
        if not 200 <= response.status < 300:
            why = f"status {response.status}"
            return Answer(Outcome.UNDECIDED, why=why, retry_after_s=_retry_after_s(response))
        if odd := self._odd(response):
            return Answer(Outcome.UNDECIDED, why=odd)
        rotates = credential.kind is CredentialKind.COOKIE and "Set-Cookie" in response.headers
        if self._rules.identity_path:
            return self._identified(await _body(response), sets_cookie=rotates)
        if self._rules.probe_path:
            await _body(response)  # read to its end, the connection serves the next question too
        return Answer(Outcome.ACCEPTED, sets_cookie=rotates)

    def _odd(self, response: ClientResponse) -> str:
        """Why a success is none of the API's own; empty if it may be one."""
        if response.content_type == "text/html":
            # A login page or a catch-all route would call every credential good.
            return "a web page instead of data"
        if response.headers.get("Age", "0").strip() != "0":
            # A cache that knows addresses only would say of everybody what it heard of the first.
            return "an answer out of a cache"
        asks_stream = not (self._rules.identity_path or self._rules.probe_path)
        if asks_stream and response.content_type != "text/event-stream":
            return "no event stream"
        return ""

    def _identified(self, body: bytes | None, *, sets_cookie: bool) -> Answer:
        if body is None:
            return Answer(Outcome.UNDECIDED, why=f"more than {MAX_BODY_BYTES} bytes")
        try:
            name = identity_name(body, self._rules.identity_fields, self._hash_key)
        except MissingFieldError as error:
            return Answer(Outcome.UNDECIDED, why="a field is missing", missing=error.field)
        except (ValueError, RecursionError):
            return Answer(Outcome.UNDECIDED, why="no JSON object")
        return Answer(Outcome.ACCEPTED, Identity(name), sets_cookie=sets_cookie)


def identity_name(body: bytes, fields: tuple[str, ...], hash_key: bytes) -> str:
    """The keyed hash of the fields that make up an identity: 32 hex digits, the same in every
    replica.

    Arrays count as sets, so they are sorted; an absent, null or empty-string field is missing,
    since two users without an id must not become one. Raises MissingFieldError, other ValueErrors
    for what is no JSON object, RecursionError for its depth.
    """
    document = json.loads(body)
    if not isinstance(document, dict):
        raise ValueError("no object")  # noqa: TRY004 - one family for all that is wrong with a body
    for field in fields:
        if document.get(field) in (None, ""):
            raise MissingFieldError(field)
    chosen = {field: _sorted(document[field]) for field in fields}
    # The word keeps it apart from the hash of a credential under the same key.
    return blake2b(b"identity:" + _dump(chosen).encode(), key=hash_key, digest_size=16).hexdigest()


def refusal(answer: Answer) -> Refusal:
    """What a client is told after an answer other than ACCEPTED; a new one for each client."""
    match answer.outcome:
        case Outcome.UNAUTHORIZED:
            return Refusal(RefusalCode.INVALID_CREDENTIAL, "The API does not know this credential.")
        case Outcome.FORBIDDEN:
            return Refusal(RefusalCode.FORBIDDEN, "The API does not allow this credential to read.")
        case Outcome.HELD_BACK:
            return Refusal(
                RefusalCode.TOO_MANY_FAILURES,
                "Too many credentials were refused lately; new ones have to wait.",
                retry_after_s=answer.retry_after_s,
                limit=answer.limit,
            )
        case _:
            return Refusal(
                RefusalCode.IDENTITY_UNAVAILABLE,
                "Whether this credential is good can't be found out right now.",
                retry_after_s=max(RETRY_AFTER_S, answer.retry_after_s or 0.0),
            )


async def _body(response: ClientResponse) -> bytes | None:
    """The whole body, or None where it is over its bound; the connection is then not used again."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            return None
    return bytes(body)


def _retry_after_s(response: ClientResponse) -> float | None:
    """The seconds of Retry-After (RFC 9110, section 10.2.3); its date form is too rare to read."""
    text = response.headers.get("Retry-After", "").strip()
    if not (text.isascii() and text.isdigit()):
        return None
    return min(float(text), MAX_RETRY_AFTER_S)


def _sorted(value: object) -> object:
    if isinstance(value, list):
        return sorted(map(_sorted, value), key=_dump)
    if isinstance(value, dict):
        return {key: _sorted(part) for key, part in value.items()}
    return value


def _dump(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
