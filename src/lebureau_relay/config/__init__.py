"""Settings: what they are, where they come from, and what is wrong with them.

Wiring reads them once and hands each part its few values; nothing below the top floor imports this
room, which also keeps pydantic out of every quick command.
"""

from lebureau_relay.config.load import effective, load
from lebureau_relay.config.settings import (
    RESERVED_DESCRIPTORS,
    Admin,
    Auth,
    Cors,
    Drain,
    Feed,
    Limits,
    Listen,
    Log,
    Proxy,
    Redis,
    Replay,
    Settings,
    Stream,
    StreamEntry,
    Upstream,
    descriptor_limit,
)

__all__ = [
    "RESERVED_DESCRIPTORS",
    "Admin",
    "Auth",
    "Cors",
    "Drain",
    "Feed",
    "Limits",
    "Listen",
    "Log",
    "Proxy",
    "Redis",
    "Replay",
    "Settings",
    "Stream",
    "StreamEntry",
    "Upstream",
    "descriptor_limit",
    "effective",
    "load",
]
