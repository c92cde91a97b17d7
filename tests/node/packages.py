"""The npm packages of package-lock.json, in a cache of their own beside the tests."""

import hashlib
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CACHE = HERE.parent / ".cache"


@cache
def node_modules() -> Path:
    """The folder with the packages; skips where npm isn't or can't install them."""
    lock = (HERE / "package-lock.json").read_bytes()
    there = CACHE / f"node-{hashlib.sha256(lock).hexdigest()[:12]}"
    if not there.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm is not installed, so its packages are not tried")
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name, folder)
            order = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            said = subprocess.run(order, cwd=folder, capture_output=True, text=True, check=False)
            if said.returncode:
                pytest.skip(f"npm ci failed: {said.stderr.strip().splitlines()[-1:]}")
            try:
                Path(folder).rename(there)
            except OSError:
                assert there.exists(), "another worker was first"
            Path(folder).mkdir(exist_ok=True)
    return there / "node_modules"
