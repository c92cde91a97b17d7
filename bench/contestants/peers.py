"""The peers, each set up by its own manual for this job; their configuration is in bench/peers.

Those that take events by a protocol of their own are published to; the others read upstream. All
their processes run on the server's core.
"""

import base64
import hashlib
import hmac
import json
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import quote

from bench.contestants.site import (
    NGINX,
    PEERS,
    TOOLS,
    Contestant,
    Publish,
    Site,
    Started,
    needs,
    needs_go,
)
from bench.kinds import DESKTOPS
from bench.machine import BenchError
from bench.programs import free_port, wait_for

_NCHAN = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
_PUSHPIN = Path("/usr/bin/pushpin")
_PYTHON = TOOLS / "venv" / "bin" / "python"
_SECRET = "a secret of the bench, which guards nothing"


def _post(path: str, kind: str, *headers: str) -> str:
    lines = (f"POST {path} HTTP/1.1", "Host: bench", f"Content-Type: {kind}", *headers)
    return "\r\n".join(lines)


def _sendloop(site: Site) -> Started:
    upstream, upstream_port = site.upstream()
    server = site.server("sendloop", site.built["sendloop"], str(upstream_port))
    return Started(upstream, server, int(server.hear().split()[1]), (DESKTOPS,), cuts=False)


def _nchan(site: Site) -> Started:
    server, port = site.nginx(site.server, "nchan", "nchan.conf", module=_NCHAN, ping_s=15)
    upstream = site.publisher(port, Publish(_post("/publish", "text/plain")))
    return Started(upstream, server, port, (DESKTOPS,))


def _nginx_proxy(site: Site) -> Started:
    upstream, upstream_port = site.upstream()
    # Each client takes two of the 20 000 descriptors that a process may have.
    workers = 1 + site.load.connections // 9000
    server, port = site.nginx(
        site.server,
        "nginx-proxy",
        "nginx_proxy.conf",
        upstream=upstream_port,
        workers=workers,
        connect_timeout="60s",
        read_timeout="1h",  # streams may be silent for long
    )
    return Started(upstream, server, port, (DESKTOPS,))


def _pushpin(site: Site) -> Started:
    _, origin_port = site.nginx(site.helper, "origin", "pushpin_origin.conf")
    port, push_port = free_port(), free_port()
    (site.folder / "routes").write_text(f"* 127.0.0.1:{origin_port}\n")
    config = site.fill("pushpin.conf", folder=site.folder, port=port, push_port=push_port)
    server = site.server("pushpin", _PUSHPIN, f"--config={config}")
    wait_for(port, server)
    wait_for(push_port, server)
    _wait_for_stream(port)
    how = Publish(
        head="zmq",
        before='J{"channel":"bench","formats":{"http-stream":{"content":"data: ',
        after='\\n\\n"}}}',
        quote='\\"',
    )
    # With many at once it answers some with 502, and leaves others without events.
    return Started(site.publisher(push_port, how), server, port, (DESKTOPS,), haste=16)


def _wait_for_stream(port: int) -> None:
    """Its processes find each other after they listen; until then it answers 502."""
    deadline_s = time.monotonic() + 15
    while time.monotonic() < deadline_s:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{DESKTOPS}", timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise BenchError("pushpin does not reach its origin")


def _mercure(site: Site) -> Started:
    port = free_port()
    config = site.folder / "mercure.yaml"
    config.write_text(site.fill("mercure.yaml", port=port, secret=_SECRET).read_text())
    # It looks for its configuration in the folder that it is told is its user's.
    (site.folder / "mercure").mkdir()
    config.rename(site.folder / "mercure" / "mercure.yaml")
    env = {"XDG_CONFIG_HOME": str(site.folder)}
    server = site.server("mercure", TOOLS / "bin" / "mercure", env=env)
    wait_for(port, server)
    token = _token({"mercure": {"publish": ["*"]}})
    kind = "application/x-www-form-urlencoded"
    head = _post("/.well-known/mercure", kind, f"Authorization: Bearer {token}")
    upstream = site.publisher(port, Publish(head, before="topic=bench&data="))
    return Started(upstream, server, port, ("/.well-known/mercure?topic=bench",))


def _token(claims: dict[str, object]) -> str:
    """A JSON Web Token, HS256."""

    def written(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    signed = ".".join(written(json.dumps(part).encode()) for part in parts)
    return f"{signed}.{written(hmac.digest(_SECRET.encode(), signed.encode(), hashlib.sha256))}"


def _centrifugo(site: Site) -> Started:
    port = free_port()
    config = site.fill("centrifugo.json", port=port, secret=_SECRET)
    server = site.server("centrifugo", TOOLS / "bin" / "centrifugo", f"--config={config}")
    wait_for(port, server)
    head = _post("/api/publish", "application/json", f"X-API-Key: {_SECRET}")
    how = Publish(head, before='{"channel":"bench","data":', after="}")
    asked = quote(json.dumps({"subs": {"bench": {}}}))
    path = f"/connection/uni_sse?cf_connect={asked}"
    return Started(site.publisher(port, how), server, port, (path,))


def _aiohttp_sse(site: Site) -> Started:
    return _python(site, "aiohttp-sse", sys.executable, "aiohttp_sse_relay.py")


def _sse_starlette(site: Site) -> Started:
    return _python(site, "sse-starlette", _PYTHON, "sse_starlette_relay.py")


def _python(site: Site, name: str, python: str | Path, script: str) -> Started:
    upstream, upstream_port = site.upstream()
    port = free_port()
    server = site.server(name, python, PEERS / script, str(upstream_port), str(port))
    return Started(upstream, server, port, (DESKTOPS,))


def _never(site: Site) -> Started:
    raise BenchError(f"{site.entry.contestant} takes no part in any scenario")


CONTESTANTS = {
    "sendloop": Contestant(_sendloop),
    "nchan": Contestant(_nchan, needs(NGINX, _NCHAN, packages="nginx and libnginx-mod-nchan")),
    "nginx-proxy": Contestant(_nginx_proxy, needs(NGINX, packages="nginx")),
    "pushpin": Contestant(_pushpin, needs(NGINX, _PUSHPIN, packages="nginx and pushpin")),
    "mercure": Contestant(_mercure, needs_go("mercure")),
    "centrifugo": Contestant(_centrifugo, needs_go("centrifugo")),
    "aiohttp-sse": Contestant(_aiohttp_sse),
    "sse-starlette": Contestant(
        _sse_starlette,
        lambda: "" if _PYTHON.exists() else "not on this machine: bench/tools.sh has not run",
    ),
    "ld-relay": Contestant(_never),
}
