"""The annotations for ingress-nginx and docs/ingress/nginx.conf say the same."""

import re

import yaml
from tests.ingress.fronts import DOCUMENTED

INGRESS = DOCUMENTED.parents[1] / "k8s" / "components" / "ingress-nginx" / "ingress.yaml"
PREFIX = "nginx.ingress.kubernetes.io/proxy-"
# What ingress-nginx does where no annotation says otherwise (its documents, "ConfigMaps").
DEFAULTS = {
    "buffering": "off",
    "connect-timeout": "5",
    "http-version": "1.1",
    "next-upstream": "error timeout",
    "read-timeout": "60",
    "request-buffering": "on",
    "send-timeout": "60",
}
# Said by nginx's file in other ways, or by ingress-nginx in none.
OURS_ALONE = {"pass", "set-header", "cache"}


def annotated(text: str) -> dict[str, str]:
    """What ingress-nginx is told or does, for the routes to the relay."""
    told = [
        document["metadata"].get("annotations", {})
        for document in yaml.safe_load_all(text)
        if "/stream" in str(document)
    ]
    assert told, "an Ingress with the stream paths"
    return DEFAULTS | {
        name.removeprefix(PREFIX): value
        for annotations in told
        for name, value in annotations.items()
        if name.startswith(PREFIX)
    }


def configured() -> dict[str, str]:
    """What nginx.conf says of proxying streams: in their location, or for all."""
    text = (DOCUMENTED / "nginx.conf").read_text()
    site = text.partition("server {\n    listen")[2].partition("location / {")[0]
    directives = re.findall(r"^\s*proxy_(\w+) ([^;]+);", site, re.MULTILINE)
    return {
        name.replace("_", "-"): value.removesuffix("s") if name.endswith("timeout") else value
        for name, value in directives
        if name.replace("_", "-") not in OURS_ALONE
    }


def test_they_say_the_same():
    there = annotated(INGRESS.read_text())
    ours = {"request-buffering": "on"} | configured()
    assert {name: there.get(name) for name in ours} == ours
    assert there.keys() == ours.keys()


def test_another_value_or_one_more_is_seen():
    sample = {"spec": {"path": "/api/desktops/stream"}}

    def told(**annotations: str) -> dict[str, str]:
        names = {PREFIX + name.replace("_", "-"): value for name, value in annotations.items()}
        return annotated(yaml.safe_dump({"metadata": {"annotations": names}} | sample))

    assert told() == {"request-buffering": "on"} | configured()
    assert told(read_timeout="3600") != told()
    assert "next-upstream-tries" in told(next_upstream_tries="3")
