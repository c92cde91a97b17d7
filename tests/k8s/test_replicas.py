"""How many relays there are, where and with which rights, and what operators are told to set."""

import re
import shutil
from itertools import product

import pytest
from tests.k8s.rendered import ALL, K8S, ROOT, SECRET_KEYS, Manifests, kustomize, render
from tests.test_metrics import CONTRACT as METRICS


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


def test_the_overlay_that_operations_shows_changes_what_it_says(chapter, tmp_path):
    (written,) = re.findall(r"```yaml\n(.*?)```", chapter, re.DOTALL)
    (tmp_path / "kustomization.yaml").write_text(written)
    (tmp_path / "lebureau-relay").mkdir()
    for name in ("k8s", "config"):
        shutil.copytree(ROOT / name, tmp_path / "lebureau-relay" / name)
    (tmp_path / "relay.yaml").write_text("upstream: {base_url: http://another-api}\n")
    found = Manifests(kustomize(tmp_path))
    assert found.file() == "upstream: {base_url: http://another-api}\n"
    assert found.container["image"] == "registry.example.org/relay:0.1.0"
    for one in found.all("Ingress"):
        assert one["spec"]["tls"] == [{"hosts": ["bureau.example.org"], "secretName": "bureau-tls"}]
        assert one["spec"]["rules"][0]["host"] == "bureau.example.org"
    assert len(found.objects) == len(render("production").objects)
