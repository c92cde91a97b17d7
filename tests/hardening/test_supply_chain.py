"""What the relay is made of and what it runs in: locked by hash, hardened parsers only, and no
right that it doesn't need.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from tests.e2e.clients import ask

ROOT = Path(__file__).parents[2]
LOCKS = (
    *("requirements.lock", "requirements-tracing.lock"),
    *("requirements-build.lock", "requirements-dev.lock"),
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# Takes all rights away: nothing can be written anywhere, and what runs is nobody.
NOBODY = """
mount --make-rprivate /
for place in $(awk '{print $5}' /proc/self/mountinfo); do
  mount -o remount,bind,ro "$place" 2>/dev/null || true
done
if touch /tmp/mine 2>/dev/null; then exit 99; fi
exec setpriv $WHO --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""
PYTHON = Path(sys.executable).resolve()
# Where the interpreter lies in root's own folder nobody else can run it: root without rights, then.
WHO = (
    "--reuid 10001 --regid 10001 --clear-groups"
    if all(folder.stat().st_mode & 1 for folder in PYTHON.parents)
    else "--clear-groups"
)


def locked(name: str) -> dict[str, tuple[Requirement, set[str]]]:
    """Each requirement of a lock file, with its hashes. Anything that is neither is a fault."""
    found: dict[str, tuple[Requirement, set[str]]] = {}
    lines = re.sub(r"\\\n", " ", (ROOT / name).read_text()).splitlines()
    for line in lines:
        if not line or line.startswith("#"):
            continue
        said, *hashes = re.split(r"\s+--hash=", line)
        requirement = Requirement(said)
        found[canonicalize_name(requirement.name)] = (
            requirement,
            {each.strip() for each in hashes},
        )
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_release_has_its_hash_and_no_address(name):
    pins = locked(name)
    assert len(pins) > 5
    for requirement, hashes in pins.values():
        (pin,) = requirement.specifier
        assert (pin.operator, requirement.url) == ("==", None), requirement
        assert "*" not in pin.version, requirement
        assert hashes, f"{requirement} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes)
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert not re.search(
        r"^\s*(-i|-f|--[a-z-]*(index|url|links|host)[a-z-]*)\b", text, re.MULTILINE
    )


def wanted(group: str) -> list[Requirement]:
    found = []
    for one in PROJECT["dependency-groups"][group]:
        found += wanted(one["include-group"]) if isinstance(one, dict) else [Requirement(one)]
    return found


@pytest.mark.parametrize(
    ("name", "requirements"),
    [
        ("requirements.lock", [Requirement(one) for one in PROJECT["project"]["dependencies"]]),
        (
            "requirements-tracing.lock",
            [Requirement(one) for one in PROJECT["project"]["optional-dependencies"]["tracing"]],
        ),
        ("requirements-build.lock", wanted("build")),
        ("requirements-dev.lock", wanted("dev")),
    ],
)
def test_whatever_the_project_asks_for_is_locked(name, requirements):
    pins = locked(name)
    for requirement in requirements:
        pin, _ = pins[canonicalize_name(requirement.name)]
        assert all(requirement.specifier.contains(each.version) for each in pin.specifier)


def test_the_locks_agree():
    pins = [locked(name) for name in LOCKS]
    for one in pins[:3]:
        for name, (pin, _) in one.items():
            assert all(pin.specifier == other[name][0].specifier for other in pins if name in other)


def test_the_security_floor_is_below_what_is_locked():
    """3.14.3 mended a heap read in the parser of upstream's answers."""
    (pin,) = locked("requirements.lock")["aiohttp"][0].specifier
    assert Version(pin.version) >= Version("3.14.3")


# -- the parsers


@pytest.mark.parametrize(
    ("variable", "named", "arguments"),
    [
        ("AIOHTTP_NO_EXTENSIONS", "request_parser", ()),
        ("MULTIDICT_NO_EXTENSIONS", "multidict", ("--workers", "2")),
    ],
)
def test_without_the_hardened_parsers_it_does_not_start(tmp_path, variable, named, arguments):
    ours = {name: value for name, value in os.environ.items() if "LEBUREAU" not in name}
    redis = {
        "LEBUREAU_RELAY_REDIS__URL": "redis://127.0.0.1:9/0",
        "LEBUREAU_RELAY_REDIS__HASH_SECRET": "a secret that is the same for all",
    }
    run = subprocess.run(
        [sys.executable, "-m", "lebureau_relay", "serve", *arguments],
        env=ours | redis | {variable: "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 1
    assert "runs without its C extensions" in run.stderr
    assert named in run.stderr
    assert f"leave {variable}" in run.stderr or f"and {variable}" in run.stderr
    assert "Traceback" not in run.stderr


# -- what it runs in


def test_the_image_has_no_root_no_shell_and_only_hashed_packages():
    text = (ROOT / "Dockerfile").read_text()
    build, _, final = text.rpartition("\nFROM ")
    assert re.search(r"^USER [1-9][0-9]*:[1-9][0-9]*$", final, re.MULTILINE), "a number, for k8s"
    assert "USER root" not in final
    installs = re.findall(r"pip install ([^\n]*)", build)
    assert all("--require-hashes" in one or "--no-deps" in one for one in installs)
    assert "pip install" not in final
    removed = re.search(r'^RUN \["rm", "-f", (.*)\]$', final, re.MULTILINE)
    assert removed
    for shell in ("sh", "bash", "dash"):
        assert f'"/usr/bin/{shell}"' in removed[1]
    for instruction in ("ENTRYPOINT", "CMD"):
        (argument,) = re.findall(rf"^{instruction} (.*)$", final, re.MULTILINE)
        assert isinstance(json.loads(argument), list), "the other form wants a shell"
    assert not re.search(r"^(ADD|VOLUME)\b|curl|wget|https?://", text, re.MULTILINE)


def test_the_pod_has_no_right_that_it_does_not_need():
    deployment = yaml.safe_load((ROOT / "k8s/base/deployment.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))
    for container in (*pod["containers"], *pod.get("initContainers", ())):
        rights = container["securityContext"]
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert not rights.get("privileged")
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert "exec" not in container[probe], "there is no shell to run it"


def can_take_rights_away() -> bool:
    if os.geteuid() or not (shutil.which("unshare") and shutil.which("setpriv")):
        return False
    check = ["unshare", "--mount", "sh", "-c", NOBODY, "sh", sys.executable, "-c", ""]
    run = subprocess.run(
        check, capture_output=True, check=False, timeout=20, env=os.environ | {"WHO": WHO}
    )
    return run.returncode == 0


def status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


@pytest.mark.skipif(not can_take_rights_away(), reason="only root can give up so much")
async def test_it_serves_as_nobody_without_a_home_where_nothing_can_be_written(
    simulator, user, connect
):
    settings = {
        "LEBUREAU_RELAY_UPSTREAM__BASE_URL": simulator.url,
        "LEBUREAU_RELAY_LISTEN__HOST": "127.0.0.1",
        "LEBUREAU_RELAY_LISTEN__PORT": "0",
        "LEBUREAU_RELAY_ADMIN__PORT": "0",
        "LEBUREAU_RELAY_DRAIN__SPREAD": "0",
        "LEBUREAU_RELAY_LOG__FORMAT": "json",
    }
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", "sh", "-c", NOBODY, "sh"),
        *(sys.executable, "-m", "lebureau_relay", "serve"),
        env=settings | {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "WHO": WHO},
        cwd="/",
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(20):
            line = json.loads(await process.stderr.readline())
            assert line["event"] == "relay.started", line
        status = status_of(process.pid)
        if "10001" in WHO:
            assert re.search(r"^Uid:\t10001\t10001\t10001\t10001$", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
        for kind in ("Prm", "Eff", "Bnd"):
            assert re.search(rf"^Cap{kind}:\t0+$", status, re.MULTILINE)
        client = await connect(line["public"])
        simulator.emit(user.id, "desktops", 3)
        await client.has(3)
        assert (await ask(line["admin"], "/")).status == 200
        process.terminate()
        async with asyncio.timeout(20):
            rest = await process.stderr.read()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    await client.ended()
    assert client.reason == "draining"
    told = [json.loads(line) for line in rest.splitlines()]
    assert not [one for one in told if one["level"] in {"warning", "error"}]
