"""What settings owe each other: mistakes that no value has alone.

They stand apart from the checks of single values so that each can be skipped where a value it looks
at is wrong in itself, and all others still be told.
"""

from collections import Counter
from collections.abc import Iterator

from lebureau_relay.config.settings import Settings
from lebureau_relay.config.values import CURSOR_PARAMETERS

Conflict = tuple[tuple[str, ...], str]
"""The settings that are compared, and the mistake as a sentence."""

_EVERYWHERE = frozenset({"0.0.0.0", "[::]", "::"})  # noqa: S104 - compared with, not bound


def conflicts(settings: Settings) -> Iterator[Conflict]:
    """Every pair of settings that don't go together."""
    yield from _bounds(settings)
    yield from _listeners(settings)
    yield from _streams(settings)
    redis = settings.redis
    if redis.url.get_secret_value() and not redis.hash_secret.get_secret_value():
        yield (
            ("redis.url", "redis.hash_secret"),
            (
                "redis.hash_secret: is missing, and redis.url asks for it; give a long random text,"
                " the same to all replicas, or file:PATH"
            ),
        )


def _bounds(settings: Settings) -> Iterator[Conflict]:
    up, replay = settings.upstream, settings.replay
    for low, small, high, big in (
        ("upstream.retry_min", up.retry_min, "upstream.retry_max", up.retry_max),
        ("replay.max_bytes", replay.max_bytes, "replay.total_bytes", replay.total_bytes),
    ):
        if small > big:
            yield (
                (low, high),
                f"{low}: {small:g} is more than {high} ({big:g}); lower it, or raise {high}",
            )


def _listeners(settings: Settings) -> Iterator[Conflict]:
    public, admin = settings.listen, settings.admin
    shared = public.host == admin.host or not _EVERYWHERE.isdisjoint({public.host, admin.host})
    if public.port == admin.port != 0 and shared:
        yield (
            ("listen.host", "listen.port", "admin.host", "admin.port"),
            f"admin.port: {admin.port} is the public listener's too; give another, or 0 for any",
        )


def _streams(settings: Settings) -> Iterator[Conflict]:
    for key in ("name", "path"):
        times = Counter(getattr(entry, key) for entry in settings.streams)
        for value in [value for value, count in times.items() if count > 1]:
            yield ("streams",), f"streams: {key} {value} stands there twice; give each its own"
    reserved = {*CURSOR_PARAMETERS, settings.auth.query_parameter}
    for index, entry in enumerate(settings.streams):
        for name in sorted(reserved.intersection(entry.forward_query)):
            yield (
                ("streams", "auth.query_parameter"),
                (
                    f"streams.{index}.forward_query: {name} carries the key or the cursor, which"
                    " go upstream in headers; take it off the list"
                ),
            )
