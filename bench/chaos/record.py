"""What runs came to, as JSON: bench/results/chaos.json of the last long run, chaos-peers.json."""

import json
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine

FOLDER = Path(__file__).parents[1] / "results"
LONG = FOLDER / "chaos.json"
PEERS = FOLDER / "chaos-peers.json"


def head(**more: object) -> dict[str, Any]:
    """When, where and of what."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.facts(),
        "python": platform.python_version(),
        "commit": _commit(),
        **more,
    }


def _commit() -> str:
    argv = ("git", "rev-parse", "--short", "HEAD")
    found = subprocess.run(argv, cwd=FOLDER, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def save(path: Path, said: dict[str, Any]) -> None:
    path.write_text(json.dumps(said, indent=1) + "\n")


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found
