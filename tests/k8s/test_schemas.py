"""Every overlay renders to objects that a cluster would take: by Kubernetes' own schemas, closed to
unknown fields, and by ours for the custom resources.
"""

import copy
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from tests.k8s.rendered import ALL, COMPOSED, K8S, OVERLAYS, render

# What is served today and what was two years before: matchLabelKeys and unhealthyPodEvictionPolicy
# are in both by default.
VERSIONS = ("1.32", "1.37")
CUSTOM = {
    schema["properties"]["kind"]["const"]: schema
    for schema in (
        yaml.safe_load(path.read_text()) for path in Path(__file__).parent.glob("schemas/*.yaml")
    )
}


def check(one, version):
    """Raises what is wrong with an object, also where nobody knows its kind."""
    if one["kind"] in CUSTOM:
        jsonschema.validate(one, CUSTOM[one["kind"]])
        assert one["metadata"]["name"]
    else:
        kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ALL)
def test_every_object_is_valid(name, version):
    objects = render(name).objects
    assert len(objects) >= 8
    for one in objects:
        check(one, version)


@pytest.mark.parametrize("name", ALL)
def test_no_object_stands_there_twice_and_all_are_in_one_namespace(name):
    objects = render(name).objects
    named = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(named) == len(set(named))
    places = {one["metadata"].get("namespace") for one in objects if one["kind"] != "Namespace"}
    assert len(places) == 1


def test_every_component_is_rendered_by_something():
    written = [
        path
        for name in OVERLAYS
        for path in yaml.safe_load(
            (K8S / "overlays" / name / "kustomization.yaml").read_text()
        ).get("components", ())
    ]
    written += [path for _, components in COMPOSED.values() for path in components]
    assert {Path(path).name for path in written} == {
        path.name for path in (K8S / "components").iterdir()
    }


def test_every_custom_resource_has_its_schema_and_every_schema_its_resource():
    kinds = {
        one["kind"]
        for name in ALL
        for one in render(name).objects
        if one["apiVersion"].split("/")[0] in {"monitoring.coreos.com", "gateway.networking.k8s.io"}
    }
    assert kinds == set(CUSTOM)


@pytest.mark.parametrize(
    ("name", "kind", "path", "value"),
    [
        ("production", "Deployment", ("spec", "maxReadySeconds"), 1),
        ("production", "Deployment", ("spec", "template", "spec", "serviceAcountName"), "x"),
        ("production", "PodDisruptionBudget", ("spec", "maxUnavailable"), [1]),
        ("production", "PodMonitor", ("spec", "podMetricsEndpoints", 0, "intervall"), "15s"),
        ("production", "PodMonitor", ("spec", "podMetricsEndpoints", 0, "interval"), "15 s"),
        ("production", "PrometheusRule", ("spec", "groups", 0, "rules", 0, "four"), "1m"),
        ("gateway", "HTTPRoute", ("spec", "rules", 0, "timeouts", "request"), "0"),
        ("gateway", "HTTPRoute", ("spec", "rules", 0, "backendRefs", 0, "port"), "80"),
    ],
)
def test_the_schemas_see_a_slip_of_the_pen(name, kind, path, value):
    one = copy.deepcopy(render(name).all(kind)[0])
    *way, last = path
    place = one
    for step in way:
        place = place[step]
    place[last] = value
    with pytest.raises(jsonschema.ValidationError):
        check(one, VERSIONS[0])
