"""Listening sockets: their options, which accepted ones inherit, and sentences for what fails."""

import asyncio
import errno
import socket

import pytest

from lebureau_relay.edge.listener import _why, listen
from lebureau_relay.errors import StartError


@pytest.fixture
def opened():
    """Sockets that are closed at the end."""
    sockets = []
    yield sockets
    for sock in sockets:
        sock.close()


def options(sock):
    tcp = socket.IPPROTO_TCP
    return {
        "nodelay": sock.getsockopt(tcp, socket.TCP_NODELAY),
        "lowat": sock.getsockopt(tcp, socket.TCP_NOTSENT_LOWAT),
        "user_timeout_ms": sock.getsockopt(tcp, socket.TCP_USER_TIMEOUT),
        "keepalive": sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        "idle_s": sock.getsockopt(tcp, socket.TCP_KEEPIDLE),
        "interval_s": sock.getsockopt(tcp, socket.TCP_KEEPINTVL),
        "probes": sock.getsockopt(tcp, socket.TCP_KEEPCNT),
    }


WANTED = {"nodelay": 1, "lowat": 16384, "user_timeout_ms": 12_345, "keepalive": 1} | {
    "idle_s": 30,
    "interval_s": 10,
    "probes": 3,
}


async def test_accepted_sockets_inherit_the_options(opened):
    opened += listen("127.0.0.1", 0, user_timeout_ms=12_345)
    accepted = asyncio.get_running_loop().create_future()

    def keep(reader, writer):
        accepted.set_result(options(writer.get_extra_info("socket")))
        writer.close()

    async with await asyncio.start_server(keep, sock=opened[0]):
        _, writer = await asyncio.open_connection(*opened[0].getsockname())
        assert await asyncio.wait_for(accepted, 5) == WANTED
        writer.close()


def test_a_taken_port_is_told_by_its_setting(opened):
    opened += listen("127.0.0.1", 0, user_timeout_ms=1)
    port = opened[0].getsockname()[1]
    with pytest.raises(StartError, match=rf"^listen\.port: {port} on 127\.0\.0\.1 is taken"):
        listen("127.0.0.1", port, user_timeout_ms=1)
    with pytest.raises(StartError, match=r"^admin\.port: "):
        listen("127.0.0.1", port, user_timeout_ms=1, section="admin")


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        ("192.0.2.1", r"^listen\.host: 192\.0\.2\.1 is no address of this machine; "),
        ("no-such-host.invalid", r"^listen\.host: 'no-such-host\.invalid' names no address; "),
        ("a..b", r"^listen\.host: 'a\.\.b' names no address; "),
        ("fe80::1", r"^listen"),  # a link-local address needs its link
    ],
)
def test_a_host_that_cannot_be_bound_is_told_by_its_setting(host, sentence):
    with pytest.raises(StartError, match=sentence):
        listen(host, 0, user_timeout_ms=1)


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.EACCES, "listen.port: 80 on 0.0.0.0 needs a privilege that this process hasn't"),
        (errno.EINVAL, "listen: can't listen on 0.0.0.0 port 80 (Invalid argument)."),
    ],
)
def test_other_failures_have_their_sentences(number, sentence):
    """Made by hand: root may bind any port, so a real one would depend on who runs the tests."""
    error = OSError(number, "Invalid argument")
    assert _why(error, "0.0.0.0", 80, "listen").startswith(sentence)


def connects(host, port):
    with socket.create_connection((host, port), timeout=5):
        return True


def test_all_of_ipv4(opened):
    opened += listen("0.0.0.0", 0, user_timeout_ms=1)
    assert [s.family for s in opened] == [socket.AF_INET]
    assert connects("127.0.0.1", opened[0].getsockname()[1])


def has_ipv6():
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_all_of_ipv6_takes_ipv4_too(opened):
    opened += listen("::", 0, user_timeout_ms=1)
    (sock,) = opened
    port = sock.getsockname()[1]
    assert connects("::1", port)
    assert connects("127.0.0.1", port)


def test_a_name_listens_on_whatever_of_it_there_is(opened):
    opened += listen("localhost", 0, user_timeout_ms=1)
    assert opened
    assert all(connects(*s.getsockname()[:2]) for s in opened)
