"""What the manifests set is what the program takes, and the times that depend on it fit: by the
program's own loader, from the ConfigMap as rendered and the environment as written.
"""

import re

import pytest
import yaml
from tests.k8s.rendered import ALL, OVERLAYS, ROOT, SECRET_KEYS, SECRETS, render

SHIPPED = (ROOT / "config/relay.yaml").read_text()
NGINX = "nginx.ingress.kubernetes.io/"


@pytest.mark.parametrize("name", ALL)
def test_the_program_takes_the_settings(settings_of, name):
    settings = settings_of(name)
    assert settings.admin.host == "0.0.0.0", "or neither probes nor Prometheus get there"
    assert settings.redis.url.get_secret_value() == SECRET_KEYS["redis-url"]
    assert settings.redis.hash_secret.get_secret_value() == SECRET_KEYS["hash-secret"]
    assert set(settings.admin.allowed_hosts) == {"localhost", "127.0.0.1", "[::1]"}


def test_the_configmap_is_the_shipped_file_unless_an_overlay_has_its_own():
    assert render("local").file() == SHIPPED
    assert render("gateway").file() == SHIPPED
    assert render("production").file() != SHIPPED


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlays_own_file_says_nothing_that_the_environment_overrules(name):
    found = render(name)
    if found.file() == SHIPPED:  # it has every setting, as a default
        return
    written = {
        f"LEBUREAU_RELAY_{section}__{key}".upper()
        for section, values in yaml.safe_load(found.file()).items()
        for key in values
    }
    assert written, "then it isn't needed"
    assert written.isdisjoint(one["name"] for one in found.container["env"])


@pytest.mark.parametrize("name", ALL)
def test_the_file_is_mounted_where_the_program_reads_it(name):
    found = render(name)
    workdir = re.search(
        r"^WORKDIR (.*)$", (ROOT / "Dockerfile").read_text().rpartition("FROM")[2], re.MULTILINE
    )
    command, option, path = found.container["args"]
    assert (command, option) == ("serve", "--config")
    mounts = {one["name"]: one["mountPath"] for one in found.container["volumeMounts"]}
    assert f"{mounts['config']}/relay.yaml" == f"{workdir[1]}/{path}"
    assert mounts["secret"] == SECRETS
    assert all(one["readOnly"] for one in found.container["volumeMounts"])


def test_the_local_secret_has_what_is_asked_for_and_production_has_none():
    local = render("local")
    assert set(local.named("Secret", local.secret_name)["data"]) == set(SECRET_KEYS)
    assert not render("production").all("Secret")
    assert render("production").secret_name == "lebureau-relay", "the name that the docs give"


# -- times


@pytest.mark.parametrize("name", ALL)
def test_the_grace_period_is_delay_and_spread_and_ten(settings_of, name):
    drain = settings_of(name).drain
    assert drain.delay == 10, "endpoints are removed behind the signal"
    grace = render(name).pod["terminationGracePeriodSeconds"]
    assert grace == drain.delay + drain.spread + 10


@pytest.mark.parametrize("name", ALL)
def test_a_pod_that_drains_is_unready_before_it_ends_a_stream(settings_of, name):
    probe = render(name).container["readinessProbe"]
    slowest_s = probe["failureThreshold"] * probe["periodSeconds"] + probe["timeoutSeconds"]
    assert slowest_s < settings_of(name).drain.delay


def test_the_next_pod_of_a_rollout_waits_until_clients_have_come_back(settings_of):
    stream = settings_of("production").stream
    assert render("production").relay["spec"]["minReadySeconds"] >= 2 * stream.retry


def test_proxies_cut_no_living_stream(settings_of):
    stream = settings_of("production").stream
    said = render("production").named("Ingress", "lebureau-relay")["metadata"]["annotations"]
    assert float(said[f"{NGINX}proxy-read-timeout"]) >= 3 * stream.heartbeat
    assert float(said[f"{NGINX}proxy-send-timeout"]) > stream.write_timeout
    assert said[f"{NGINX}proxy-buffering"] == "off"
    assert said[f"{NGINX}enable-access-log"] == "false", "it would have keys from the query"
    route = render("gateway").named("HTTPRoute", "lebureau-relay")["spec"]["rules"][0]
    assert route["timeouts"] == {"request": "0s", "backendRequest": "0s"}
