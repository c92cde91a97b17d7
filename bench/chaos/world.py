"""The world as one relay sees it: its wall clock, its name server, and the API's certificate."""

import ssl
import struct
import subprocess
from pathlib import Path

from bench.machine import BenchError

_SOURCE = Path(__file__).parents[1] / "c" / "world.c"
HOST = "api.chaos.test"
_DAY_S = 86_400


def compile_world(folder: Path) -> Path:
    """The shim. Raises BenchError where gcc can't make it."""
    library = folder / "world.so"
    argv = ("gcc", "-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-o", library, _SOURCE, "-ldl")
    try:
        subprocess.run(argv, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BenchError(f"gcc could not compile world.c: {error}") from None
    return library


class World:
    """What one program believes; `env` is what it must be started with."""

    def __init__(self, library: Path, file: Path) -> None:
        self.env = {"LD_PRELOAD": str(library), "CHAOS_WORLD": str(file)}
        self._file = file
        self._values = [0.0, 0.0]
        self._write()

    def clock(self, ahead_s: float) -> None:
        """Let its wall clock be so far ahead."""
        self._values[0] = ahead_s
        self._write()

    def names(self, *, gone: bool) -> None:
        """Whether the API's name resolves."""
        self._values[1] = float(gone)
        self._write()

    def _write(self) -> None:
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("dd", *self._values))


class Certificate:
    """The API's certificate, which can be expired and renewed while its server runs."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.trusted = folder / "trusted.pem"
        past = World(library, folder / "past")
        past.clock(-10 * _DAY_S)
        self._good = _made(folder / "good", {})
        self._expired = _made(folder / "expired", past.env)
        self.trusted.write_text(
            "".join(pair[0].read_text() for pair in (self._good, self._expired))
        )
        self.renew()

    def expire(self) -> None:
        self.context.load_cert_chain(*self._expired)

    def renew(self) -> None:
        self.context.load_cert_chain(*self._good)


def _made(path: Path, env: dict[str, str]) -> tuple[Path, Path]:
    """Certificate and key, good for two days from now, or from what `env` takes for now."""
    certificate, key = path.with_suffix(".crt"), path.with_suffix(".key")
    argv = (
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-nodes", "-days", "2", "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"),
        *("-keyout", str(key), "-out", str(certificate)),
    )
    subprocess.run(argv, check=True, capture_output=True, env={"PATH": "/usr/bin:/bin"} | env)
    return certificate, key
