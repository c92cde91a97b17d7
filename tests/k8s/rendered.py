"""The manifests as a cluster would get them: every overlay, and every component somewhere."""

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
KUBECTL = Path(sys.executable).parent / "kubectl"
"""The locked one: what Debian packages is of 2021 and knows no components."""

OVERLAYS = tuple(sorted(path.name for path in (K8S / "overlays").iterdir()))
# What no overlay has: another front, and all components that one of them may be given.
COMPOSED = {
    "production with client module": ("overlays/production", ["components/client-module"]),
    "gateway": ("base", ["components/gateway", "components/client-module"]),
}
ALL = (*OVERLAYS, *COMPOSED)

SECRETS = "/run/secrets/lebureau-relay"
SECRET_KEYS = {"redis-url": "redis://somewhere:6379/0", "hash-secret": "the same for all of them"}
"""What the Secret has to hold, with a sample each."""

Object = dict[str, Any]


class Manifests:
    """The objects of one rendering."""

    def __init__(self, objects: list[Object]) -> None:
        self.objects = objects

    def all(self, kind: str) -> list[Object]:
        return [one for one in self.objects if one["kind"] == kind]

    def named(self, kind: str, name: str) -> Object:
        (found,) = (one for one in self.all(kind) if one["metadata"]["name"] == name)
        return found

    @property
    def relay(self) -> Object:
        """The relay's Deployment."""
        return self.named("Deployment", "lebureau-relay")

    @property
    def pod(self) -> Object:
        return self.relay["spec"]["template"]["spec"]

    @property
    def container(self) -> Object:
        (only,) = self.pod["containers"]
        return only

    def file(self) -> str:
        """The settings file that the pod mounts."""
        (volume,) = (one["configMap"] for one in self.pod["volumes"] if "configMap" in one)
        return self.named("ConfigMap", volume["name"])["data"]["relay.yaml"]

    @property
    def secret_name(self) -> str:
        """The Secret that the pod mounts."""
        (volume,) = (one["secret"] for one in self.pod["volumes"] if "secret" in one)
        return volume["secretName"]


@cache
def render(name: str) -> Manifests:
    """An overlay by its name, or one of COMPOSED."""
    if name in OVERLAYS:
        return Manifests(kustomize(K8S / "overlays" / name))
    resource, components = COMPOSED[name]
    return compose(resource, components)


def compose(resource: str, components: list[str]) -> Manifests:
    """What an overlay somewhere else makes of ours."""
    with TemporaryDirectory() as folder:
        # kustomize takes relative paths only
        place = os.path.relpath(K8S, Path(folder).resolve())
        written = {
            "resources": [f"{place}/{resource}"],
            "components": [f"{place}/{one}" for one in components],
        }
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(written))
        return Manifests(kustomize(Path(folder)))


def kustomize(folder: Path) -> list[Object]:
    """What kubectl makes of a folder."""
    run = subprocess.run(
        [KUBECTL, "kustomize", folder], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    assert not run.stderr, "kustomize warns of what it will not read for long"
    return list(yaml.safe_load_all(run.stdout))


def selectors(found: Manifests) -> Iterator[tuple[str, dict[str, str]]]:
    """Whatever means the relay's pods by label, with a name to tell it by."""
    yield "Deployment", found.relay["spec"]["selector"]["matchLabels"]
    yield "Service", found.named("Service", "lebureau-relay")["spec"]["selector"]
    for kind in ("PodDisruptionBudget", "PodMonitor"):
        for one in found.all(kind):
            yield kind, one["spec"]["selector"]["matchLabels"]
    for one in found.all("NetworkPolicy"):
        if one["metadata"]["name"].startswith("lebureau-relay"):
            yield one["metadata"]["name"], one["spec"]["podSelector"]["matchLabels"]
    for one in found.pod["topologySpreadConstraints"]:
        yield one["topologyKey"], one["labelSelector"]["matchLabels"]
