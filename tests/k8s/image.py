"""The image as it is built and run: `make image-test`. Not in the suite: it takes minutes, root,
mmdebstrap and buildah.

There may be no registry, so the base is made here of Debian's packages, under the name that the
Dockerfile gives; so that very base isn't tried. Storage is a folder of its own, thrown away. Pip's
configuration reaches the build as its secret, this machine's certificates stand in the base.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from tests.k8s.rendered import ROOT, render

from lebureau_relay import __version__

TOOLS = ("mmdebstrap", "buildah", "unshare", "setpriv", "chroot")
(BASE,) = re.findall(r"^ARG BASE=(.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
# Read-only wherever it can write, no right of root's, none to be had: as the pod's securityContext.
CONFINED = """
mount --make-rprivate /
mount --bind "$ROOTFS" "$ROOTFS"
for path in $MOUNTS; do
  mount --bind "${path%%=*}" "$ROOTFS${path#*=}"
  mount -o remount,bind,ro "$ROOTFS${path#*=}"
done
mount -o remount,bind,ro "$ROOTFS"
if touch "$ROOTFS/tmp/mine" 2>/dev/null; then exit 99; fi
exec chroot "$ROOTFS" /usr/bin/setpriv --reuid "$OWNER" --regid "$OWNER" --clear-groups \
  --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def buildah(tmp_path_factory):
    """Runs buildah with storage of its own, for as long as the tests take."""
    missing = [name for name in TOOLS if not shutil.which(name)]
    if os.geteuid() or missing:
        pytest.fail(f"needs root and {', '.join(missing) or 'nothing else'}; apt-get install it")
    place = tmp_path_factory.mktemp("storage")
    (place / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{place}/graph"\nrunroot = "{place}/run"\n'
    )
    env = os.environ | {
        "CONTAINERS_STORAGE_CONF": f"{place}/storage.conf",
        "BUILDAH_ISOLATION": "chroot",
        "PLACE": str(place),
    }

    def call(*arguments, program="buildah"):
        return run(program, *arguments, env=env, cwd=ROOT)

    yield call
    call("rm", "--all")
    call("umount", "--all")
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def base(buildah, tmp_path_factory):
    """A Debian with a Python, under the name of the base."""
    archive = tmp_path_factory.mktemp("base") / "base.tar"
    sources = [str(path) for path in Path("/etc/apt").glob("sources.list.d/*.sources")]
    sources += [str(path) for path in Path("/etc/apt").glob("sources.list")]
    release = dict(
        re.findall(r'^(\w+)="?([^"\n]*)', Path("/etc/os-release").read_text(), re.MULTILINE)
    )
    run(
        *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}"),
        *(release["VERSION_CODENAME"], str(archive), *sources),
    )
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(archive), "/")
    archive.unlink()
    # The base has it by the short name; and certificates of a company's proxy are the machine's.
    buildah("run", container, "ln", "-s", "/usr/bin/python3", "/usr/local/bin/python")
    certificates = "/etc/ssl/certs/ca-certificates.crt"
    buildah("copy", "--quiet", container, certificates, certificates)
    buildah("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin", container)
    buildah("commit", "--quiet", container, f"docker.io/library/{BASE}")
    buildah("rm", container)


@pytest.fixture(scope="module")
def build(buildah, base):
    """`make image`, as everybody calls it, with a tag; returns the layers and the configuration."""

    def make(tag):
        flags = "--pull-never --no-cache"
        if Path("/etc/pip.conf").exists():
            flags += " --secret id=pip,src=/etc/pip.conf"
        hidden = "PATH=/usr/bin:/bin:/usr/sbin:/sbin"  # a docker of the machine's lies elsewhere
        said = buildah(
            *(
                hidden,
                "make",
                "image",
                f"TAG={tag}",
                f"BUILD_FLAGS={flags}",
                "SOURCE_DATE_EPOCH=1700000000",
            ),
            program="env",
        )
        assert "buildah build" in said, "by the tool that is looked at here"
        return json.loads(buildah("inspect", "--type", "image", f"lebureau-relay:{tag}"))["OCIv1"]

    return make


@pytest.fixture(scope="module")
def image(build):
    return build("one")


@pytest.fixture(scope="module")
def container(buildah, image):
    """Where its files are, and its name."""
    name = buildah("from", "--pull-never", "lebureau-relay:one")
    return name, Path(buildah("mount", name))


def test_two_builds_are_the_same(image, build):
    again = build("two")
    assert again["rootfs"]["diff_ids"] == image["rootfs"]["diff_ids"]
    assert again["created"] == image["created"]


def test_it_says_what_it_is(image):
    config = image["config"]
    assert config["User"] == "10001:10001"
    assert config["StopSignal"] == "SIGTERM"
    assert (config["Entrypoint"], config["Cmd"]) == (["/relay/bin/lebureau-relay"], ["serve"])
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == "one"
    assert labels["org.opencontainers.image.revision"] == run("git", "rev-parse", "HEAD", cwd=ROOT)
    assert not [one for one in config["Env"] if "LEBUREAU" in one]


def test_what_is_in_it(container):
    _, root = container
    for shell in ("sh", "bash", "dash", "rbash", "busybox", "zsh"):
        assert not (root / "usr/bin" / shell).is_file(), shell
    site = next((root / "relay/lib").glob("python3.*/site-packages"))
    names = {path.name.partition("-")[0].lower() for path in site.glob("*.dist-info")}
    assert "lebureau_relay" in names
    assert not names & {"pip", "hatchling", "setuptools", "editables", "pytest"}
    assert not list(root.glob("build")), "the builder's own"
    texts = [path.read_text() for path in (root / "relay").rglob("direct_url.json")]
    assert texts == [one for one in texts if "//" in one and "file:///build/dist/" in one]
    size = sum(path.lstat().st_size for path in (root / "relay").rglob("*"))
    assert size < 80_000_000, f"{size} bytes of what was 50 MB"


def test_buildah_runs_it_as_its_user(buildah, container):
    name, _ = container
    relay = "/relay/bin/lebureau-relay"
    assert buildah("run", name, "--", relay, "--version") == f"lebureau-relay {__version__}"
    assert "base_url: https://" in buildah("run", name, "--", relay, "check-config")
    assert buildah("run", name, "--", "/usr/bin/id", "-u") == "10001"


def test_it_serves_without_a_right_and_ends_cleanly(image, container, tmp_path):
    """As the pod of the production overlay: its file, its environment, its root, its user."""
    _, root = container
    found, config = render("production"), image["config"]
    settings, secret = tmp_path / "config", tmp_path / "secret"
    for folder in (settings, secret):
        folder.mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    (settings / "relay.yaml").write_text(found.file())
    (secret / "hash-secret").write_text("a secret that is the same for all")
    mounts = {one["name"]: one["mountPath"] for one in found.container["volumeMounts"]}
    for path in ("/dev", *mounts.values()):
        (root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    env = dict(one.split("=", 1) for one in config["Env"])
    env |= {one["name"]: one["value"] for one in found.container["env"] if "value" in one}
    env |= {
        "LEBUREAU_RELAY_REDIS__URL": "redis://127.0.0.1:9/0",  # away: no reason not to serve
        "LEBUREAU_RELAY_LISTEN__HOST": "127.0.0.1",
        "LEBUREAU_RELAY_LISTEN__PORT": "0",
        "LEBUREAU_RELAY_ADMIN__HOST": "127.0.0.1",
        "LEBUREAU_RELAY_ADMIN__PORT": "0",
        "LEBUREAU_RELAY_DRAIN__DELAY": "1",
        "LEBUREAU_RELAY_DRAIN__SPREAD": "1",
        "ROOTFS": str(root),
        "OWNER": config["User"].partition(":")[0],
        "MOUNTS": f"{settings}={mounts['config']} {secret}={mounts['secret']} /dev=/dev",
    }
    command = [
        *("unshare", "--mount", "sh", "-c", CONFINED, "sh"),
        *("/usr/bin/env", f"--chdir={config['WorkingDir']}"),
        *(*config["Entrypoint"], *found.container["args"]),
    ]
    env |= {"PATH": os.environ["PATH"]}
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            check_life(process, found.container, getattr(signal, config["StopSignal"]))
        finally:
            process.kill()  # of no use to one that has ended
        told = [json.loads(line) for line in process.stderr]
    assert not [one for one in told if one["level"] == "error"]


def check_life(process, pod, stop):
    started = json.loads(next(line for line in process.stderr if "relay.started" in line))
    status = Path(f"/proc/{process.pid}/status").read_text()
    assert re.search(r"^Uid:\t10001\t10001\t10001\t10001$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    for kind in ("Prm", "Eff", "Bnd"):
        assert re.search(rf"^Cap{kind}:\t0+$", status, re.MULTILINE)
    live, ready = (
        started["admin"] + pod[f"{kind}Probe"]["httpGet"]["path"]
        for kind in ("liveness", "readiness")
    )
    assert (answer(live), answer(ready)) == (200, 200)
    assert answer(started["public"] + "/api/desktops/stream") == 401
    process.send_signal(stop)
    wait_until = time.monotonic() + 0.9  # of the second that drain.delay is here
    while answer(ready) != 503:
        assert time.monotonic() < wait_until, "unready at once"
    assert answer(live) == 200
    assert process.wait(timeout=20) == 0


def answer(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code
