"""The Dockerfile by its linter, and `make image` by whichever tool is there. What the image does
when it runs is `make image-test`, which takes minutes.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.k8s.rendered import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
FINAL = DOCKERFILE.rpartition("\nFROM ")[2]


def test_the_linter_has_nothing_to_say():
    hadolint = Path(sys.executable).parent / "hadolint"
    run = subprocess.run(
        [hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=30, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_what_builds_stays_behind():
    assert re.findall(r"^COPY (.*)$", FINAL, re.MULTILINE) == ["--from=build /relay /relay"]
    assert "python -m venv --without-pip /relay" in DOCKERFILE
    ours = [
        re.sub(r"\\\n\s*", " ", one)
        for one in re.findall(r"--python /relay\S* install((?:[^\n]|\\\n)*)", DOCKERFILE)
    ]
    assert len(ours) == 2
    assert not [one for one in ours if "requirements-build" in one]
    assert all("--no-compile" in one for one in ours), "bytecode would hold the time of the build"
    assert "--invalidation-mode unchecked-hash" in DOCKERFILE


def test_it_stops_by_the_signal_that_drains_and_is_labelled():
    assert re.search(r"^STOPSIGNAL SIGTERM$", FINAL, re.MULTILINE)
    for name in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{name}=" in FINAL


def test_no_settings_are_hidden_in_the_image():
    """The environment wins over the file, so one in there would overrule a ConfigMap in silence."""
    assert "LEBUREAU_RELAY_" not in DOCKERFILE


# -- make image


@pytest.fixture
def make_image(tmp_path):
    """`make image` where only the given tools are there; those that fail are named so."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("make", "bash", "sh", "git", "sed", "echo"):
        (tools / name).symlink_to(shutil.which(name))

    def run(*there, **variables):
        for name in there:
            bare = name.removesuffix(" without daemon")
            answer = "exit 1" if name != bare else 'printf "%s\\n" "RAN ${0##*/} $*"'
            (tools / bare).write_text(f"#!/bin/sh\n{answer}\n")
            (tools / bare).chmod(0o755)
        return subprocess.run(
            ["make", "--no-print-directory", "image", *(f"{k}={v}" for k, v in variables.items())],
            cwd=ROOT,
            env={"PATH": str(tools), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    return run


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (
            ["docker", "podman", "buildah"],
            r"RAN docker build --build-arg SOURCE_DATE_EPOCH=\d{9,} ",
        ),
        (["docker without daemon", "podman"], r"RAN podman build --timestamp \d{9,} "),
        (["buildah"], r"RAN buildah build --timestamp \d{9,} "),
    ],
)
def test_it_is_built_by_what_works(make_image, there, expected):
    run = make_image(*there, IMAGE="registry.example.com/relay", TAG="1.2.3")
    assert run.returncode == 0, run.stderr
    (said,) = (line for line in run.stdout.splitlines() if "RAN" in line and "build" in line)
    assert re.match(expected, said)
    assert said.endswith("--tag registry.example.com/relay:1.2.3 .")
    assert "--build-arg VERSION=1.2.3 " in said
    assert re.search(r"--build-arg REVISION=[0-9a-f]{40} ", said)


def test_base_flags_and_time_are_handed_on(make_image):
    run = make_image(
        "buildah", BASE="python@sha256:0", BUILD_FLAGS="--no-cache", SOURCE_DATE_EPOCH=7
    )
    assert "--timestamp 7 --build-arg BASE=python@sha256:0 " in run.stdout
    assert run.stdout.rstrip().endswith("--no-cache .")


def test_without_any_tool_it_says_what_is_missing(make_image):
    run = make_image("docker without daemon")
    assert run.returncode != 0
    assert "install one of docker, podman and buildah" in run.stderr


def test_only_what_is_named_goes_to_the_builder():
    patterns = (ROOT / ".dockerignore").read_text().split()
    assert patterns[0] == "*"
    named = {
        one
        for line in re.findall(r"^COPY (?!--)(.*) \S+$", DOCKERFILE, re.MULTILINE)
        for one in line.split()
    }
    assert {one.removeprefix("!") for one in patterns if one.startswith("!")} == named
