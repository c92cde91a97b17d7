"""Listening sockets, made by hand because their options are limits.

What a listening socket is set to, every accepted one inherits; aiohttp's own sites have no place
for it. It stands apart from the server so that a port that is taken is found before anything else
starts.
"""

import errno
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from lebureau_relay.errors import StartError

# Waiting connections while one turn of the loop is busy; the kernel's own bound is commonly as
# high.
BACKLOG: Final = 4096
# Unsent bytes that the kernel takes before it calls a socket full. The default lets some 4 MB per
# stuck client vanish in the kernel, where no limit of ours sees them.
_NOTSENT_LOWAT_BYTES: Final = 16_384
# An idle peer that has vanished is found within a minute: 30 s of silence, then three probes.
_KEEPALIVE_IDLE_S, _KEEPALIVE_INTERVAL_S, _KEEPALIVE_PROBES = 30, 10, 3
# `localhost` names an IPv6 address also where IPv6 is switched off; the other one will do.
_ABSENT: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


@dataclass(frozen=True, slots=True)
class Sockets:
    """Where one relay listens; they belong to it once it serves."""

    public: Sequence[socket.socket]
    admin: Sequence[socket.socket]


def bind(
    public: tuple[str, int], admin: tuple[str, int], *, user_timeout_ms: int, relays: int = 1
) -> list[Sockets]:
    """The sockets of so many relays in as many processes, all of them or none.

    The public ones are the same for all: whoever is idle accepts, and what waits in the queue of
    one that dies is served by the others. With a socket each on the same port (SO_REUSEPORT), the
    kernel deals connections out unseen, and those dealt to a process that dies are reset. The admin
    port of each relay is one more than that of the one before it, unless it is 0.
    """
    made: list[Sequence[socket.socket]] = []
    try:
        made.append(listen(*public, user_timeout_ms=user_timeout_ms))
        host, port = admin
        made.extend(
            listen(host, port and port + n, user_timeout_ms=user_timeout_ms, section="admin")
            for n in range(relays)
        )
    except StartError:
        for sock in (sock for sockets in made for sock in sockets):
            sock.close()
        raise
    return [Sockets(made[0], one) for one in made[1:]]


def listen(
    host: str, port: int, *, user_timeout_ms: int, section: str = "listen"
) -> list[socket.socket]:
    """Listening sockets for every address that `host` names. Port 0: the kernel chooses, for each.

    Accepted connections inherit the options: unsent bytes are bounded, and a peer that acknowledges
    nothing for `user_timeout_ms` is given up by the kernel (RFC 5482). Raises StartError, naming
    the settings of `section`.
    """
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    addresses = _addresses(host, port, section)
    for family, address in addresses:
        # Alone, `::` stands for IPv4 too, as people expect; beside an IPv4 socket it can't.
        both = len(addresses) == 1
        try:
            sockets.append(_bound(family, address, user_timeout_ms, both_families=both))
        except OSError as error:
            if error.errno not in _ABSENT:
                for sock in sockets:
                    sock.close()
                raise StartError(_why(error, host, port, section)) from error
            absent = error
    if absent is not None and not sockets:
        raise StartError(_why(absent, host, port, section)) from absent
    return sockets


def _addresses(host: str, port: int, section: str) -> list[tuple[int, Any]]:
    """What a name stands for, each once: hosts files like to repeat themselves."""
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise StartError(
            f"{section}.host: {host!r} names no address; "
            "give an address of this machine, or 0.0.0.0 for all."
        ) from error
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _bound(
    family: int, address: Any, user_timeout_ms: int, *, both_families: bool
) -> socket.socket:
    """One listening socket with its options, which what it accepts inherits."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        tcp = socket.IPPROTO_TCP
        sock.setsockopt(tcp, socket.TCP_NODELAY, 1)
        sock.setsockopt(tcp, socket.TCP_NOTSENT_LOWAT, _NOTSENT_LOWAT_BYTES)
        sock.setsockopt(tcp, socket.TCP_USER_TIMEOUT, user_timeout_ms)
        sock.setsockopt(tcp, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S)
        sock.setsockopt(tcp, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_S)
        sock.setsockopt(tcp, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not both_families))
        sock.bind(address)
        # At once: until somebody listens, another program may take the same port.
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _why(error: OSError, host: str, port: int, section: str) -> str:
    """A sentence for somebody who has to change a setting."""
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"{section}.port: {port} on {host} is taken by another program; "
                "stop that one, or choose another port."
            )
        case errno.EACCES:
            return (
                f"{section}.port: {port} on {host} needs a privilege that this process hasn't; "
                "choose a port above 1023."
            )
        case errno.EADDRNOTAVAIL:
            return (
                f"{section}.host: {host} is no address of this machine; "
                "give one that is, or 0.0.0.0 for all."
            )
        case _:
            return f"{section}: can't listen on {host} port {port} ({error.strerror})."
