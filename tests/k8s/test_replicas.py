"""How many relays there are, where and with which rights, and what operators are told to set."""

import re
import shutil
from itertools import product

import pytest
import yaml
from bench.report.capacity import costs, needs, users_of
from bench.results import load_all
from tests.k8s.rendered import ALL, K8S, ROOT, SECRET_KEYS, Manifests, kustomize, render
from tests.test_metrics import CONTRACT as METRICS

from lebureau_relay import __version__


@pytest.mark.parametrize("name", ALL)
def test_a_rollout_and_an_emptied_node_leave_all_or_all_but_one(name):
    found = render(name)
    assert found.relay["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }
    budget = found.named("PodDisruptionBudget", "lebureau-relay")["spec"]
    assert budget["maxUnavailable"] == 1
    assert fewest(found) > budget["maxUnavailable"]


def fewest(found):
    scalers = found.all("HorizontalPodAutoscaler")
    return scalers[0]["spec"]["minReplicas"] if scalers else found.relay["spec"]["replicas"]


def test_production_has_three_replicas_and_only_one_who_says_how_many():
    found = render("production")
    assert fewest(found) >= 3
    assert "replicas" not in found.relay["spec"], "every apply would set the scaler back"
    assert render("gateway").relay["spec"]["replicas"] >= 3


def test_it_scales_by_open_streams_up_soon_and_down_slowly(settings_of):
    scaler = render("production").named("HorizontalPodAutoscaler", "lebureau-relay")["spec"]
    target = scaler["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", "lebureau-relay")
    (metric,) = (one["pods"] for one in scaler["metrics"])
    exported = {f"lebureau_relay_{bare}": kind for bare, (kind, _) in METRICS.items()}
    assert exported[metric["metric"]["name"]] == "gauge"
    wanted = int(metric["target"]["averageValue"])
    # With one of the fewest gone, the others take its streams and stay below their limit.
    survivors = scaler["minReplicas"] - 1
    assert (
        wanted * scaler["minReplicas"] / survivors < settings_of("production").limits.streams_total
    )
    up, down = (scaler["behavior"][way] for way in ("scaleUp", "scaleDown"))
    assert up["stabilizationWindowSeconds"] <= 60
    assert down["stabilizationWindowSeconds"] >= 900
    (policy,) = down["policies"]
    assert (policy["type"], policy["value"]) == ("Pods", 1)
    grace = render("production").pod["terminationGracePeriodSeconds"]
    assert policy["periodSeconds"] > 2 * grace


def test_the_rule_for_the_adapter_is_of_the_metric_that_the_scaler_asks_for():
    scaler = render("production").named("HorizontalPodAutoscaler", "lebureau-relay")["spec"]
    name = scaler["metrics"][0]["pods"]["metric"]["name"]
    text = (K8S / "components/hpa/hpa.yaml").read_text()
    rule = yaml.safe_load("".join(re.findall(r"^#   (.*\n)", text, re.MULTILINE)))[0]
    assert rule["seriesQuery"] == f'{name}{{namespace!="",pod!=""}}', "the labels of PodMonitors"
    assert "name" not in rule, "then the metric has the series' name"
    resources = rule["resources"]["overrides"]
    assert resources == {one: {"resource": one} for one in ("namespace", "pod")}
    assert rule["metricsQuery"].startswith("sum("), "a pod has a series for each stream"


_UNITS = {"m": 1e-3, "Mi": 2**20, "Gi": 2**30}


def quantity(text):
    number, unit = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", text).groups()
    return float(number) * _UNITS.get(unit, 1)


def test_a_pod_has_what_its_streams_take_by_the_capacity_guide(settings_of):
    """As many as the scaler wants within what is requested, and as many as it takes at all."""
    found, settings = render("production"), settings_of("production")
    scaler = found.named("HorizontalPodAutoscaler", "lebureau-relay")["spec"]
    wanted = int(scaler["metrics"][0]["pods"]["target"]["averageValue"])
    cost = costs({one.scenario.name: one for one in load_all()})
    asked, most = (found.container["resources"][kind] for kind in ("requests", "limits"))
    for streams, cores, memory in (
        (wanted, quantity(asked["cpu"]), quantity(asked["memory"])),
        (settings.limits.streams_total, 1, quantity(most["memory"])),
    ):
        cores_taken, megabytes = needs(users_of(streams), cost)
        assert cores_taken < cores
        assert (cost.process_mb + megabytes) * 1e6 + settings.replay.total_bytes < memory
    assert "cpu" not in most, "throttled, the loop stands still for everybody"


@pytest.mark.parametrize("name", ALL)
def test_replicas_are_spread_over_zones_and_nodes(name):
    constraints = render(name).pod["topologySpreadConstraints"]
    assert {one["topologyKey"] for one in constraints} == {
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    }


# -- rights: the short version of `make policy`


@pytest.mark.parametrize("name", ALL)
def test_every_pod_keeps_to_the_restricted_standard_and_says_what_it_needs(name):
    found = render(name)
    account = found.named("ServiceAccount", found.pod["serviceAccountName"])
    assert account["automountServiceAccountToken"] is False
    for deployment in found.all("Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 10_000, "no user of the node's"
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert not [one for one in pod.get("volumes", ()) if "hostPath" in one]
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert re.search(r":[0-9][\w.-]*$", container["image"]), "a fixed tag"
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
            assert {"livenessProbe", "readinessProbe"} <= set(container)
    covered = [one["spec"]["podSelector"]["matchLabels"] for one in found.all("NetworkPolicy")]
    for deployment in found.all("Deployment"):
        assert deployment["spec"]["template"]["metadata"]["labels"] in covered


def test_the_image_and_the_pod_agree_on_the_user():
    final = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    user, _, group = re.search(r"^USER (.*)$", final, re.MULTILINE)[1].partition(":")
    for name, (key, value) in product(ALL, (("runAsUser", user), ("runAsGroup", group))):
        assert render(name).pod["securityContext"][key] == int(value)


@pytest.mark.parametrize("name", ALL)
def test_the_image_is_this_version(name):
    for one in render(name).all("Deployment"):
        (container,) = one["spec"]["template"]["spec"]["containers"]
        if "relay" in container["image"]:
            assert container["image"].endswith(f"lebureau-relay:{__version__}")


# -- docs


@pytest.fixture(scope="module")
def chapter():
    text = (ROOT / "docs/operations.md").read_text()
    return text.partition("\n## Deploy in Kubernetes\n")[2].partition("\n## ")[0]


def test_operations_tells_all_that_has_to_be_set(chapter):
    production = render("production")
    host = production.named("Ingress", "lebureau-relay")["spec"]["rules"][0]["host"]
    said = {*SECRET_KEYS, production.secret_name, host, production.relay["metadata"]["namespace"]}
    said |= {f"`{path.name}`" for path in (K8S / "components").iterdir()}
    assert not [one for one in said if one not in chapter]
    for name in re.findall(r"k8s/[\w/.-]+", chapter):
        assert (ROOT / name).exists(), name


@pytest.fixture
def shown(chapter, tmp_path):
    """Renders the overlay that operations shows, with more in it."""
    (written,) = re.findall(r"```yaml\n(.*?)```", chapter, re.DOTALL)
    (tmp_path / "lebureau-relay").mkdir()
    for name in ("k8s", "config"):
        shutil.copytree(ROOT / name, tmp_path / "lebureau-relay" / name)
    (tmp_path / "relay.yaml").write_text("upstream: {base_url: http://another-api}\n")

    def rendered(*patches):
        overlay = yaml.safe_load(written)
        overlay["patches"] += patches
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
        return Manifests(kustomize(tmp_path))

    return rendered


def test_the_patch_that_takes_our_ingress_of_the_api_away_does_only_that(chapter, shown):
    (patch,) = re.findall(r"`(\{patch: .*?\})`", chapter)
    found = {(one["kind"], one["metadata"]["name"]) for one in shown().objects}
    fewer = {(one["kind"], one["metadata"]["name"]) for one in shown(yaml.safe_load(patch)).objects}
    assert found - fewer == {("Ingress", "lebureau-api")}


def test_the_overlay_that_operations_shows_changes_what_it_says(shown):
    found = shown()
    assert found.file() == "upstream: {base_url: http://another-api}\n"
    assert found.container["image"] == f"registry.example.org/relay:{__version__}"
    for one in found.all("Ingress"):
        assert one["spec"]["tls"] == [{"hosts": ["bureau.example.org"], "secretName": "bureau-tls"}]
        assert one["spec"]["rules"][0]["host"] == "bureau.example.org"
    ours, theirs = (
        one.named("NetworkPolicy", "lebureau-relay")["spec"]["egress"]
        for one in (render("production"), found)
    )
    assert theirs[:2] == ours[:2]
    (redis,) = theirs[2:]
    assert redis["ports"] == ours[2]["ports"]
    assert redis["to"][0]["ipBlock"]
    assert len(found.objects) == len(render("production").objects)
