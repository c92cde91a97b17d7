"""The control API: what the methods of Simulator do, for who is in another process.

It lies under `/_sim` on the same listener, has no credential of its own and answers every origin:
whoever reaches the simulator may order it about and read its keys. That is right for an instrument
on a loopback address and wrong anywhere else.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from aiohttp import hdrs, web

from lebureau_relay.errors import ConfigError
from lebureau_relay.simulator.accounts import CAPABILITIES, User
from lebureau_relay.simulator.api import Api, RequestSeen
from lebureau_relay.simulator.catalogue import Fault
from lebureau_relay.simulator.channel import Record
from lebureau_relay.simulator.faults import parse_fault
from lebureau_relay.simulator.options import Stream

Body = Mapping[str, Any]
_CORS: Final = {
    hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: "*",
    hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, POST, DELETE",
    hdrs.ACCESS_CONTROL_ALLOW_HEADERS: "content-type",
}
# One order emits at most so many events in one go: more would hold up every open stream.
_MOST_AT_ONCE: Final = 100_000


_NARROWED_BY: Final = ("user", "stream", "times", "every")


class Control:
    """The control endpoints over one simulated API."""

    __slots__ = ("_api", "_world")

    def __init__(self, api: Api) -> None:
        self._api = api
        self._world = api.world

    def install(self, app: web.Application) -> None:
        """Put the endpoints into an application that is about to start."""
        gets = {
            "state": lambda _query: self._api.state(),
            "users": lambda _query: [_user(each) for each in self._world.accounts.users.values()],
            "requests": lambda _query: [_request(each) for each in self._api.requests],
            "log": self._log,
            "faults": self._faults,
        }
        posts = {
            "emit": self._emit,
            "faults": self._order,
            "revoke": self._revoke,
            "users": lambda _body: _user(self._world.add_user()),
            "keys": self._add_key,
        }
        for name, get in gets.items():
            app.router.add_get(f"/_sim/{name}", _handler(get, with_body=False))
        for name, post in posts.items():
            app.router.add_post(f"/_sim/{name}", _handler(post, with_body=True))
        app.router.add_delete("/_sim/faults", _handler(self._clear, with_body=False))
        app.router.add_options("/_sim/{name}", _preflight)

    def _log(self, query: Body) -> object:
        channel = self._world.channel(query["user"], Stream(query["stream"]))
        return [_record(each) for each in channel.records]

    def _faults(self, _query: Body) -> object:
        return {
            "catalogue": {
                f.value: {"argument": f.argument, "description": f.description} for f in Fault
            },
            "standing": [asdict(order) for order in self._api.faults],
        }

    def _emit(self, body: Body) -> object:
        user, stream = body["user"], Stream(body["stream"])
        count = int(body.get("count", 0 if body.get("events") else 1))
        if not 0 <= count <= _MOST_AT_ONCE:
            raise ValueError(f"count is {count}; give 0 to {_MOST_AT_ONCE}")
        records = [self._emit_one(user, stream, event) for event in body.get("events", ())]
        records += [self._world.tell(user, stream) for _ in range(count)]
        return [_record(each) for each in records]

    def _emit_one(self, user: str, stream: Stream, event: Body) -> Record:
        if "raw" in event:
            return self._world.emit_raw(
                user, stream, event["raw"].encode("latin-1"), event.get("id")
            )
        return self._world.emit(
            user,
            stream,
            event["type"],
            event.get("payload", {}),
            event_id=event.get("id", ...),
            event=event.get("event", ""),
        )

    def _order(self, body: Body) -> object:
        if unknown := body.keys() - {"fault", "open", *_NARROWED_BY}:
            raise ValueError(f"{min(unknown)!r} is no part of one")
        order = parse_fault(str(body["fault"]), **{k: body[k] for k in _NARROWED_BY if k in body})
        return {"done": self._api.order(order, while_open=bool(body.get("open")))}

    def _clear(self, _query: Body) -> object:
        self._api.clear_faults()
        return {}

    def _revoke(self, body: Body) -> object:
        return {"known": self._api.revoke(body["secret"], cut=bool(body.get("cut")))}

    def _add_key(self, body: Body) -> object:
        capabilities = body.get("capabilities", CAPABILITIES)
        return {"key": self._world.accounts.add_key(body["user"], capabilities)}


def _handler(
    verb: Callable[[Body], object], *, with_body: bool
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        try:
            answer = verb(await request.json() if with_body else request.query)
        except ConfigError as error:
            return _json({"mistakes": error.mistakes}, 400)
        except KeyError as error:
            return _json({"mistakes": [f"{error} is missing or unknown"]}, 400)
        except (ValueError, TypeError, AttributeError) as error:
            return _json({"mistakes": [f"the order can't be read: {error}"]}, 400)
        return _json(answer)

    return handle


async def _preflight(_request: web.Request) -> web.Response:
    return web.Response(status=204, headers=_CORS)


def _json(answer: object, status: int = 200) -> web.Response:
    return web.json_response(answer, status=status, headers=_CORS)


def _user(user: User) -> dict[str, object]:
    return asdict(user)


def _request(seen: RequestSeen) -> dict[str, object]:
    return {
        "method": seen.method,
        "path": seen.path,
        "query": seen.query,
        "headers": list(seen.headers.items()),
        "address": seen.address,
        "status": seen.status,
    }


def _record(record: Record) -> dict[str, object]:
    raw = None if record.raw is None else record.raw.decode("latin-1")
    return {**record._asdict(), "raw": raw}
