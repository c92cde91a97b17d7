"""The proxies that users are given settings for, as programs: each runs its file of docs/ingress,
where names, addresses, paths and the time-out are a test's and nothing else is.
"""

import asyncio
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from tests.broker.programs import free_port
from tests.e2e.clients import eventually

DOCUMENTED = Path(__file__).parents[2] / "docs" / "ingress"
NGINX, HAPROXY, CADDY = "nginx", "haproxy", "caddy"
FILES = {NGINX: "nginx.conf", HAPROXY: "haproxy.cfg", CADDY: "Caddyfile"}
_START_S = 20.0

# What stands around a file of a site; each line is about places, processes or this machine.
_NGINX_AROUND = """
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile {descriptors};
pid {folder}/pid;
error_log {folder}/main.log;
events {{ worker_connections {descriptors}; }}
http {{
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    include {folder}/site.conf;
}}
"""


def replaced(text: str, changes: Mapping[str, str]) -> str:
    """The text with every one of these changed; each must stand there."""
    for was, becomes in changes.items():
        assert was in text, f"no {was!r} in the file"
        text = text.replace(was, becomes)
    return text


def place(url: str) -> str:
    """host:port of a URL."""
    return urlsplit(url).netloc


class Front:
    """One proxy with TLS in front of relays and an API. `idle_s` is its time-out for silence,
    `changes` are of its file, beside those that every test needs; without TLS they take it out. Use
    it as a context.
    """

    def __init__(
        self,
        name: str,
        relays: Sequence[str],
        api: str,
        *,
        admin: str = "",
        idle_s: int = 60,
        tls: bool = True,
        changes: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"{'https' if tls else 'http'}://localhost:{self.port}"
        self._folder = tempfile.TemporaryDirectory(prefix=f"{name}-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        self._relays = list(relays)
        self._api = api
        self._admin_port = place(admin).rpartition(":")[2] or "1"
        self._idle_s = idle_s
        self._changes = dict(changes or {})
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(_make_certificate, self.folder)
        (self.folder / "home").mkdir()
        self.folder.chmod(0o755)  # nginx's worker is nobody, and its logs are reopened
        self._write()
        home = str(self.folder / "home")
        with self._out.open("wb") as out:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(),
                env={"PATH": os.environ["PATH"], "HOME": home, "XDG_DATA_HOME": home},
                cwd=self.folder,
                stdout=out,
                stderr=out,
            )
        try:
            await eventually(self._listens, _START_S, f"{self.name} listens")
        except AssertionError:
            await self.__aexit__()
            raise AssertionError(self.said) from None
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            if self.name == CADDY:  # asked politely, it waits for its streams
                self._process.kill()
            else:
                self._process.terminate()
        await self._process.wait()
        self._folder.cleanup()

    async def point_at(self, relays: Sequence[str]) -> None:
        """nginx chooses among these from now on; streams that are open stay with old workers."""
        assert self._process is not None
        self._relays = list(relays)
        before = self._workers()
        self._write()
        self._process.send_signal(signal.SIGHUP)
        await eventually(lambda: self._workers() - before, _START_S, "a new worker")

    def _workers(self) -> set[str]:
        assert self._process is not None
        pid = self._process.pid
        return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())

    @property
    def said(self) -> str:
        """Everything that it has written: logs, errors, its last words."""
        return "\n".join(file.read_text() for file in sorted(self.folder.glob("*.log")))

    def trust(self) -> ssl.SSLContext | None:
        """What a client needs to believe it; HTTP/1.1, since the test's own clients speak that."""
        if not self.url.startswith("https"):
            return None
        context = ssl.create_default_context(cafile=self.folder / "site.crt")
        context.set_alpn_protocols(["http/1.1"])
        return context

    @property
    def _out(self) -> Path:
        return self.folder / "out.log"

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, self.said
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _command(self) -> Sequence[str]:
        program = shutil.which(self.name, path=os.environ["PATH"] + ":/usr/sbin")
        assert program is not None, f"{self.name} is missing: tests/needs.sh installs it"
        match self.name:
            case "nginx":
                return (program, "-p", str(self.folder), "-c", str(self.folder / "main.conf"))
            case "haproxy":
                return (program, "-db", "-f", str(self.folder / "site.conf"))
            case _:
                site = str(self.folder / "site.conf")
                return (program, "run", "--config", site, "--adapter", "caddyfile")

    # -- files

    def _write(self) -> None:
        """The documented file, with a test's places."""
        text = (DOCUMENTED / FILES[self.name]).read_text()
        text = replaced(text, self._changes)
        text = text.replace("/etc/haproxy/lebureau.pem", f"{self.folder}/site.pem")
        text = replaced(text, {"api:8000": place(self._api)})
        places = {"nginx": self._nginx, "haproxy": self._haproxy, "caddy": self._caddy}[self.name]
        (self.folder / "site.conf").write_text(replaced(text, places()))
        if self.name == NGINX:
            # More than Debian's 768; the hard limit is what the machine grants.
            around = _NGINX_AROUND.format(
                folder=self.folder,
                descriptors=16_384,
                user="user root;" if os.geteuid() == 0 else "",
            )
            (self.folder / "main.conf").write_text(around)

    def _nginx(self) -> dict[str, str]:
        servers = " ".join(f"server {place(url)};" for url in self._relays)
        return {
            "server relay:8080;": servers,
            "listen 443": f"listen 127.0.0.1:{self.port}",
            "lebureau.example": "localhost",
            "/etc/nginx/tls/lebureau": f"{self.folder}/site",
            "/var/log/nginx/": f"{self.folder}/",
            "_timeout 60s": f"_timeout {self._idle_s}s",
        }

    def _haproxy(self) -> dict[str, str]:
        return {
            "/dev/log local0": "stdout format raw local0",
            "bind :443": f"bind 127.0.0.1:{self.port}",
            "relay:8080": place(self._relays[0]),
            "port 9090": f"port {self._admin_port}",
            "timeout client 60s": f"timeout client {self._idle_s}s",
            "timeout server 60s": f"timeout server {self._idle_s}s",
        }

    def _caddy(self) -> dict[str, str]:
        tls = f"tls {self.folder}/site.crt {self.folder}/site.key"
        return {
            "admin off\n": "admin off\n\tauto_https disable_redirects\n",
            "lebureau.example {": f"https://localhost:{self.port} {{\n\tbind 127.0.0.1",
            "# tls /etc/caddy/lebureau.crt /etc/caddy/lebureau.key": tls,
            "relay:8080": place(self._relays[0]),
            "health_port 9090": f"health_port {self._admin_port}",
            "read_timeout 60s": f"read_timeout {self._idle_s}s",
        }


def _make_certificate(folder: Path) -> None:
    made = ("-days", "2", "-keyout", "site.key", "-out", "site.crt", "-subj", "/CN=localhost")
    subprocess.run(
        (
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", *made, "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ),
        cwd=folder,
        check=True,
        capture_output=True,
    )
    parts = [(folder / name).read_text() for name in ("site.crt", "site.key")]
    (folder / "site.pem").write_text("".join(parts))
