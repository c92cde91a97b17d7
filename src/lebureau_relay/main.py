"""The wiring: settings become parts, parts become a relay. The only room that knows all others.

`Relay` is one relay in the running loop, for a process of its own, the demo and the tests alike.
"""

import asyncio
import random
import re
import secrets
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from socket import socket
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from lebureau_relay import __version__
from lebureau_relay.config import RESERVED_DESCRIPTORS, Settings, descriptor_limit
from lebureau_relay.core.backoff import Backoff
from lebureau_relay.core.credential import Credential
from lebureau_relay.core.history import HistoryLimits
from lebureau_relay.deployment import Deployment
from lebureau_relay.edge.admin import AdminRules, AdminSources, build_admin
from lebureau_relay.edge.admission import Admission, ClientAddresses
from lebureau_relay.edge.app import Guard, build_app
from lebureau_relay.edge.cors import Cors
from lebureau_relay.edge.credentials import CredentialRules
from lebureau_relay.edge.listener import Sockets, bind
from lebureau_relay.edge.lobby import MAX_WAITING
from lebureau_relay.edge.picture import PictureSources
from lebureau_relay.edge.server import build_runner, serve_on
from lebureau_relay.edge.stream import Door, StreamHandler
from lebureau_relay.errors import CloseReason, StartError
from lebureau_relay.identity import AuthRules, Register
from lebureau_relay.metrics import Metrics
from lebureau_relay.relay.host import StreamTimings
from lebureau_relay.relay.hub import Hub, HubLimits
from lebureau_relay.relay.observer import Observer, ReplicaFacts
from lebureau_relay.relay.owner import Outside
from lebureau_relay.relay.ports import Source, StreamSpec
from lebureau_relay.relay.survey import Survey
from lebureau_relay.upstream import Upstream, UpstreamRules, make_session

if TYPE_CHECKING:  # an extra
    from lebureau_relay.tracing import Tracing

# What an API that answers a short request with all that it has says in pieces comes at shorter
# intervals; whoever is caught up waits so much longer.
_PAUSE_S = 0.05
# How often the loop's lag is looked at: often enough to see a hiccup, rarely enough to cost
# nothing.
_LAG_PROBE_S = 0.1
# Connections to the admin listener: probes, scrapes and consoles are some dozens.
_MAX_ADMIN = 256


class Relay:
    """One relay, in the running loop.

    `start` takes up service or raises StartError; `drain` leaves it in good order; `stop` ends what
    is left. `extra` may add routes to the public application before it starts. `sockets` are to be
    served where somebody else has bound them; `log` is a logger of structlog's.
    """

    def __init__(
        self,
        settings: Settings,
        extra: Callable[[web.Application], None] | None = None,
        sockets: Sockets | None = None,
        log: structlog.stdlib.BoundLogger | None = None,
    ) -> None:
        self.settings = settings
        self._extra = extra
        self._sockets = sockets
        self._specs = tuple(
            StreamSpec(one.name, one.path, one.forward_query) for one in settings.streams
        )
        log = log or structlog.get_logger("lebureau_relay")
        self.metrics = Metrics(
            [spec.name for spec in self._specs],
            facts=lambda: self.hub.facts(),  # noqa: PLW0108 - the hub is made later
            log=lambda level, event, facts: getattr(log, level)(event, **facts),
            version=__version__,
            subscribers_limit=settings.limits.resolved_streams_total(),
            redis_operations=("pipeline",) if settings.redis.url.get_secret_value() else (),
        )
        self.hub: Hub
        self.ready = False
        self._handler: StreamHandler
        self._tracing = _tracing(settings)
        self._deployment = Deployment(settings, self.metrics, self._keep)
        self._runners: list[web.AppRunner] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Lock()
        self.public_url = ""
        self.admin_url = ""
        self.failed = asyncio.Event()  # a part that must never end has ended

    async def start(self) -> None:
        """Bind, wire and serve."""
        sockets = self._sockets or bind_for(self.settings)[0]
        self._session = make_session()
        await self._deployment.join()
        identities = self._register()
        self.hub = self._hub(identities)
        self.hub.start()
        self._handler = StreamHandler(self._door(identities), self.hub)
        self._keep("identities", identities.run())
        self._keep("lag", self._probe_lag())
        self._deployment.gather(self._own_facts, self.hub.let_go)
        await self._serve_public(sockets.public)
        await self._serve_admin(sockets.admin)
        self.public_url = _url(sockets.public)
        self.admin_url = _url(sockets.admin)
        self.ready = True

    async def drain(self) -> None:
        """Leave service: not ready at once, new streams served for the delay, then ended over the
        spread.
        """
        drain = self.settings.drain
        self.ready = False
        self.hub.draining = True
        await asyncio.sleep(drain.delay)
        self._handler.refusing = True
        await self.hub.drain(drain.spread)

    async def stop(self) -> None:
        """End whatever is left, at once. May be called without `drain`, and again."""
        async with self._stopping:  # each part may be ended again, but not meanwhile
            self.ready = False
            self._handler.refusing = True
            await self.hub.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._deployment.leave()
            for runner in self._runners:
                await runner.cleanup()
            await self._session.close()
            tracing, self._tracing = self._tracing, None
            if tracing is not None:
                await tracing.stop()

    def _keep(self, part: str, life: Coroutine[None, None, None]) -> None:
        """Run a part for as long as the relay lives. Without it the relay would seem to work: where
        nobody rechecks credentials, a revoked one is never found out again.
        """
        task = asyncio.ensure_future(life)
        self._tasks.append(task)

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled():
                error = type(task.exception()).__name__
                self.metrics.note("error", "relay.part_failed", part=part, error=error)
                self.failed.set()

        task.add_done_callback(ended)

    def _register(self) -> Register:
        auth, limits = self.settings.auth, self.settings.limits
        rules = AuthRules(
            base_url=self.settings.upstream.base_url,
            api_key_header=auth.api_key_header,
            probe_path=auth.probe_path,
            identity_path=auth.identity_path,
            identity_fields=auth.identity_fields,
            recheck_interval_s=auth.recheck_interval,
            max_stale_s=auth.max_stale,
            upstream_auth_failures_per_minute=limits.upstream_auth_failures_per_minute,
            stream_path=self._specs[0].path,
        )
        return Register(
            rules,
            self._deployment.hash_key,
            self._session,
            self.metrics,
            on_revoked=self._revoke,
            on_changed=self._revoke,
            places=self._deployment.places,
        )

    def _revoke(self, credential: Credential) -> None:
        self.hub.revoke(credential)

    def _hub(self, identities: Register) -> Hub:
        settings = self.settings
        upstream = UpstreamRules(
            base_url=settings.upstream.base_url,
            api_key_header=settings.auth.api_key_header,
            connect_timeout_s=settings.upstream.connect_timeout,
            idle_timeout_s=settings.upstream.idle_timeout,
            max_event_bytes=settings.upstream.max_event_bytes,
        )
        source: Source = Upstream(self._session, upstream, self.metrics)
        observer: Observer = self.metrics
        if self._tracing is not None:
            source, observer = self._tracing.source(source), self._tracing.observer(observer)
        outside = Outside(
            source=source,
            identities=identities,
            observer=observer,
            backoff=Backoff(settings.upstream.retry_min, settings.upstream.retry_max),
            uniform=random.random,
            new_epoch=partial(secrets.token_hex, 4),
        )
        timings = StreamTimings(
            heartbeat_s=settings.stream.heartbeat,
            retry_s=settings.stream.retry,
            buffer_bytes=settings.stream.buffer_bytes,
            write_timeout_s=settings.stream.write_timeout,
            max_age_s=settings.stream.max_age,
            settle_s=settings.balance.min_age,
            linger_s=settings.feed.linger,
            catchup_timeout_s=settings.replay.catchup_timeout,
            pause_s=_PAUSE_S,
        )
        replay = settings.replay
        history = HistoryLimits(replay.max_events, replay.max_bytes, replay.max_age)
        limits = HubLimits(history, replay.total_bytes)
        return Hub(outside, timings, limits, self._deployment.shared)

    def _credential_rules(self) -> CredentialRules:
        auth = self.settings.auth
        return CredentialRules(
            auth.api_key_header, auth.query_parameter, re.compile(auth.cookie_pattern)
        )

    def _cors(self) -> Cors:
        return Cors(self.settings.cors.allowed_origins, self.settings.auth.api_key_header)

    def _door(self, identities: Register) -> Door:
        streams_total = self.settings.limits.resolved_streams_total()
        self._admission = Admission(streams_total, identities, self._deployment.budgets)
        return Door(
            rules=self._credential_rules(),
            cors=self._cors(),
            addresses=ClientAddresses(map(str, self.settings.proxy.trusted), self.metrics),
            admission=self._admission,
            identities=identities,
            observer=self.metrics,
        )

    async def _serve_public(self, sockets: Sequence[socket]) -> None:
        handler = self._handler
        traced = handler if self._tracing is None else self._tracing.handler(handler)
        app = build_app(self._specs, traced, cors=self._cors())
        if self._extra is not None:
            self._extra(app)
        guard = Guard(
            self._specs,
            self._credential_rules(),
            self.metrics,
            soft=self.settings.limits.browser_refusals == "retry",
            retry_s=self.settings.stream.retry,
        )
        runner = build_runner(app, guard, most_waiting=self._most_waiting)
        self._runners.append(runner)
        await serve_on(runner, sockets)

    def _most_waiting(self) -> int:
        """Connections that may be no streams: half of the reserve stays for who isn't a client."""
        free = descriptor_limit() - RESERVED_DESCRIPTORS // 2 - self._admission.taken
        return min(MAX_WAITING, free)

    async def _serve_admin(self, sockets: Sequence[socket]) -> None:
        token = self.settings.admin.token()
        rules = AdminRules(
            __version__,
            self.settings.admin.allowed_hosts,
            token.get_secret_value() if token is not None else "",
        )
        survey = Survey(self.hub)
        picture = PictureSources(
            ready=self._readiness,
            count=survey.count,
            find=survey.find,
            counts=self.metrics.counts,
            streams=lambda: self._admission.taken,
            replica=self._deployment.name,
            replicas=lambda: self._deployment.replicas,
        )
        sources = AdminSources(
            picture=picture,
            render=self.metrics.render,
            end=lambda identity: self.hub.end(identity, CloseReason.OPERATOR),
            observer=self.metrics,
        )
        guard = Guard((), self._credential_rules(), self.metrics, soft=False, listener="admin")
        runner = build_runner(build_admin(rules, sources), guard, most_waiting=lambda: _MAX_ADMIN)
        self._runners.append(runner)
        await serve_on(runner, sockets)

    def _readiness(self) -> tuple[bool, str]:
        if self.ready:
            return True, "ready"
        return False, "draining" if self.hub.draining else "starting"

    def _own_facts(self) -> ReplicaFacts:
        """Not from the hub's facts: among ten thousand feeds those hold up the loop."""
        _, state = self._readiness()
        return ReplicaFacts(self._deployment.name, self._admission.taken, self.hub.owned, state)

    async def _probe_lag(self) -> None:
        """How much later than asked the loop wakes us: what every delivery waits at worst."""
        clock = self.hub.clock
        while True:
            asked_s = clock()
            await asyncio.sleep(_LAG_PROBE_S)
            self.metrics.observe_lag(max(clock() - asked_s - _LAG_PROBE_S, 0.0))


def _tracing(settings: Settings) -> "Tracing | None":
    """What makes spans; None where nobody wants any. Raises StartError."""
    if not settings.tracing.endpoint:
        return None
    try:
        from lebureau_relay.tracing import exporting  # noqa: PLC0415 - an extra, slow to load
    except ImportError:
        mend = "pip install 'lebureau-relay[tracing]', or leave tracing.endpoint empty"
        raise StartError(
            f"tracing.endpoint is set, but OpenTelemetry is missing: {mend}."
        ) from None
    return exporting(settings.tracing.endpoint, settings.tracing.sample_ratio, __version__)


def bind_for(settings: Settings, relays: int = 1) -> list[Sockets]:
    """The sockets of so many relays in as many processes. Raises StartError."""
    return bind(
        (settings.listen.host, settings.listen.port),
        (settings.admin.host, settings.admin.port),
        user_timeout_ms=int(1000 * settings.stream.write_timeout),
        relays=relays,
    )


def _url(sockets: Sequence[socket]) -> str:
    host, port = sockets[0].getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{host}:{port}"
