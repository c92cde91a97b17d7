"""Upstream by aiohttp's client: one subscription at a time, from connect to its end, as events.

client        aiohttp's client as streams need it
source        asking for a stream, and what an answer means; what to do about it is the owner's
subscription  reading what comes
"""

from lebureau_relay.upstream.client import make_session
from lebureau_relay.upstream.source import Upstream, UpstreamRules

__all__ = ["Upstream", "UpstreamRules", "make_session"]
