"""Tracing: spans by OpenTelemetry of what happens seldom, for whoever asks why this took so long.

It is plugged into sockets that are there anyway (`Source`, `Observer`, the handler of requests), so
that nobody else knows of it; where it is off nothing stands between. There are spans for a request
on its way to a stream, for asking upstream, for a client's verdict and for a takeover; never for an
event, whose meters are handed on as they are. A client's `traceparent` is taken up; nothing is told
upstream, whose requests hold only what decision 8 allows. No span holds a credential, an address, a
query, a cursor, or words of upstream's: only names from closed sets, and the keyed hash that the
log has too.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from random import getrandbits
from typing import Any, Final, Protocol, TypeVar

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import (
    ParentBased,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import (
    Link,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from lebureau_relay.core.credential import Credential
from lebureau_relay.errors import Refusal, RefusalCode, SourceFailure
from lebureau_relay.relay.observer import Observer, StreamMeter
from lebureau_relay.relay.ports import FeedKey, Source, StreamSpec, Subscription

# A collector that is away must not hold up the end of a process beyond its grace.
_STOP_S: Final = 2.0
_PARENT: Final = "traceparent"
_STREAM: Final = "lebureau.stream"
_OUTCOME: Final = "lebureau.outcome"
_IDENTITY: Final = "lebureau.identity"


class _Headers(Protocol):
    def getall(self, name: str, default: tuple[str, ...], /) -> list[str] | tuple[str, ...]: ...


class _Request(Protocol):
    @property
    def headers(self) -> _Headers: ...

    @property
    def method(self) -> str: ...


R = TypeVar("R", bound=_Request)
A = TypeVar("A")
Handler = Callable[[R, StreamSpec], Awaitable[A]]


def exporting(endpoint: str, sample_ratio: float, version: str) -> "Tracing":
    """Tracing to a collector that takes OTLP over HTTP at this origin; the caller owes `stop`.

    OpenTelemetry reads more from its own variables: headers and a certificate for the collector
    (OTEL_EXPORTER_OTLP_…), and what else is to be said of the process (OTEL_RESOURCE_ATTRIBUTES).
    """
    sampler = ParentBased(
        TraceIdRatioBased(sample_ratio), remote_parent_sampled=_Draw(sample_ratio)
    )
    named = Resource.create({"service.name": "lebureau-relay", "service.version": version})
    provider = TracerProvider(sampler, named, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(f"{endpoint}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider, version)


class _Draw(TraceIdRatioBased):
    """So many of the requests that clients want kept. It is drawn anew for each, since whoever
    chooses a trace's id would also choose what that decides.
    """

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,  # noqa: ARG002 - the client's
        *rest: Any,
        **more: Any,
    ) -> SamplingResult:
        return super().should_sample(parent_context, getrandbits(64), *rest, **more)


class Tracing:
    """What makes spans of what it is put around."""

    def __init__(self, provider: TracerProvider, version: str) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("lebureau_relay", version)

    def handler(self, handle: Handler[R, A]) -> Handler[R, A]:
        """`handle` within a span: from the request's head to its stream, or its refusal."""

        async def traced(request: R, stream: StreamSpec) -> A:
            with self._tracer.start_as_current_span(
                "connect",
                _told_by(request),
                SpanKind.SERVER,
                {
                    _STREAM: stream.name,
                    "http.request.method": request.method,
                    "http.route": stream.path,
                },
                record_exception=False,  # its text is for the client
                set_status_on_exception=False,
            ) as span:
                outcome, status = RefusalCode.DRAINING.value, 0  # only the relay's end cancels it
                try:
                    answer = await handle(request, stream)
                    outcome, status = "accepted", 200
                except Refusal as refusal:
                    outcome, status = refusal.code.value, refusal.code.status
                    raise
                except Exception:
                    outcome, status = RefusalCode.INTERNAL_ERROR.value, 500
                    raise
                finally:
                    span.set_attribute(_OUTCOME, outcome)
                    if status:
                        span.set_attribute("http.response.status_code", status)
                    if status >= 500:
                        span.set_status(Status(StatusCode.ERROR))
                return answer

        return traced

    def source(self, source: Source) -> Source:
        """`source`, with a span for each opening."""
        return _TracedSource(source, self._tracer)

    def observer(self, observer: Observer) -> Observer:
        """`observer`, with spans for verdicts and takeovers."""
        return _TracedObserver(observer, self._tracer)

    async def stop(self) -> None:
        """Send what is left, as far as the collector takes it within two seconds."""
        done = asyncio.Event()
        loop = asyncio.get_running_loop()

        def shut_down() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # it took too long, and the loop is gone
                loop.call_soon_threadsafe(done.set)

        # Not the loop's executor, whose end would be waited for.
        threading.Thread(target=shut_down, daemon=True, name="tracing-stop").start()
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_S):
                await done.wait()


def _told_by(request: _Request) -> Context:
    """The trace that the client says it is in, if it says one (W3C Trace Context)."""
    said = request.headers.getall(_PARENT, ())
    carrier = {_PARENT: said[0]} if len(said) == 1 else {}
    return TraceContextTextMapPropagator().extract(carrier, Context())


def _place() -> tuple[Context | None, Sequence[Link]]:
    """Where a span that begins now belongs: to the request that waits for it (None: where we are),
    or to a trace of its own, if that request is over. Then a link names it. Of a request that isn't
    kept nothing is kept later either.
    """
    span = get_current_span()
    context = span.get_span_context()
    if span.is_recording() or (context.is_valid and not context.trace_flags.sampled):
        return None, ()
    return Context(), (Link(context),) if context.is_valid else ()


class _TracedSource:
    """A Source whose openings are spans: part of the request that waits for it, or a trace of its
    own that names the request which once opened the feed.
    """

    def __init__(self, source: Source, tracer: Tracer) -> None:
        self._source = source
        self._tracer = tracer

    async def open(self, key: FeedKey, credential: Credential, cursor: bytes) -> Subscription:
        context, once = _place()
        with self._tracer.start_as_current_span(
            "upstream.connect",
            context,
            SpanKind.CLIENT,
            {
                _STREAM: key.stream.name,
                _IDENTITY: key.identity,
                "lebureau.resumes": bool(cursor),
            },
            links=once,
            record_exception=False,  # its text may quote upstream
            set_status_on_exception=False,
        ) as span:
            try:
                subscription = await self._source.open(key, credential, cursor)
            except SourceFailure as failure:
                span.set_attribute(_OUTCOME, failure.problem.value)
                if failure.status is not None:
                    span.set_attribute("http.response.status_code", failure.status)
                span.set_status(Status(StatusCode.ERROR))
                raise
            span.set_attribute(_OUTCOME, "open")
            return subscription


class _TracedMeter:
    """A StreamMeter whose verdicts are spans. What counts events is the meter's own, untouched."""

    def __init__(self, name: str, meter: StreamMeter, tracer: Tracer) -> None:
        self._name = name
        self._meter = meter
        self._tracer = tracer
        self.received = meter.received
        self.delivered = meter.delivered
        self.delay = meter.delay
        self.reconnect = meter.reconnect
        self.catchup = meter.catchup
        self.gap = meter.gap
        self.connect = meter.connect
        self.closed = meter.closed

    def replay(self, outcome: str, events: int, waited_s: float) -> None:
        self._meter.replay(outcome, events, waited_s)
        context, _ = _place()  # who had to wait is judged in somebody else's task
        attributes: dict[str, str | int] = {
            _STREAM: self._name,
            _OUTCOME: outcome,
            "lebureau.events": events,
        }
        _past(self._tracer, "replay", context, attributes, waited_s)


class _TracedObserver:
    """An Observer whose takeovers are spans, and whose meters trace."""

    def __init__(self, observer: Observer, tracer: Tracer) -> None:
        self._observer = observer
        self._tracer = tracer
        self._meters: dict[str, StreamMeter] = {}
        self.refused = observer.refused
        self.note = observer.note

    def stream(self, name: str) -> StreamMeter:
        if name not in self._meters:
            self._meters[name] = _TracedMeter(name, self._observer.stream(name), self._tracer)
        return self._meters[name]

    def takeover(self, seconds: float) -> None:
        self._observer.takeover(seconds)
        _past(self._tracer, "takeover", Context(), {}, seconds)


def _past(
    tracer: Tracer,
    name: str,
    context: Context | None,
    attributes: Mapping[str, str | int],
    lasted_s: float,
) -> None:
    """A span of what is over: it ended now and lasted so long."""
    now_ns = time.time_ns()
    span = tracer.start_span(
        name, context, attributes=attributes, start_time=now_ns - int(lasted_s * 1e9)
    )
    span.end(now_ns)
