"""Ports, labels and paths are the same wherever they stand, and the same as the program's."""

from base64 import b64decode
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from tests.k8s.rendered import ALL, render, selectors

from lebureau_relay.edge.admin import AdminRules, build_admin

CLIENT_MODULE = "/relay/client.js"


def ports(found):
    return {one["name"]: one["containerPort"] for one in found.container["ports"]}


def policy_ports(rule):
    return {(one["protocol"], one["port"]) for one in rule["ports"]}


@pytest.mark.parametrize("name", ALL)
def test_whoever_means_the_relays_pods_by_label_finds_them_and_no_others(name):
    found = render(name)
    others = [
        one["spec"]["template"]["metadata"]["labels"]
        for one in found.all("Deployment")
        if one is not found.relay
    ]
    labels = found.relay["spec"]["template"]["metadata"]["labels"]
    for who, wanted in selectors(found):
        assert wanted, who
        assert wanted.items() <= labels.items(), who
        assert not any(wanted.items() <= other.items() for other in others), who


@pytest.mark.parametrize("name", ALL)
def test_ports_are_those_that_the_program_listens_on(settings_of, name):
    found, settings = render(name), settings_of(name)
    assert ports(found) == {"http": settings.listen.port, "admin": settings.admin.port}
    (service,) = found.named("Service", "lebureau-relay")["spec"]["ports"]
    assert service["targetPort"] == "http"
    for one in found.all("PodMonitor"):
        assert [each["port"] for each in one["spec"]["podMetricsEndpoints"]] == ["admin"]
    fronts = {"lebureau-relay-from-ingress-nginx", "lebureau-relay-from-gateway"}
    let_in = {
        one["metadata"]["name"]: policy_ports(one["spec"]["ingress"][0])
        for one in found.all("NetworkPolicy")
        if "-from-" in one["metadata"]["name"]
    }
    for who, allowed in let_in.items():
        port = settings.listen.port if who in fronts else settings.admin.port
        assert allowed == {("TCP", port)}, who
    if name != "local":
        assert fronts & set(let_in)


@pytest.mark.parametrize("name", ALL)
def test_nothing_else_comes_in_and_only_dns_api_and_redis_are_reached(name):
    policy = render(name).named("NetworkPolicy", "lebureau-relay")["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["ingress"] == []
    dns, api, redis = policy["egress"]
    assert policy_ports(dns) == {("UDP", 53), ("TCP", 53)}
    assert all(len(rule["to"]) == 1 for rule in policy["egress"])
    peers = [rule["to"][0]["podSelector"]["matchLabels"] for rule in (api, redis)]
    assert peers == [{"app.kubernetes.io/name": f"lebureau-{who}"} for who in ("api", "redis")]


def test_the_local_api_and_redis_are_where_relays_look_for_them_and_may_go(settings_of):
    found = render("local")
    egress = found.named("NetworkPolicy", "lebureau-relay")["spec"]["egress"]
    (redis_url,) = (b64decode(one["data"]["redis-url"]).decode() for one in found.all("Secret"))
    for address, rule in zip(
        (settings_of("local").upstream.base_url, redis_url), egress[1:], strict=True
    ):
        parts = urlsplit(address)
        service = found.named("Service", parts.hostname)["spec"]
        pod = found.named("Deployment", parts.hostname)["spec"]["template"]
        assert service["selector"] == pod["metadata"]["labels"]
        (port,), (container,) = service["ports"], pod["spec"]["containers"]
        assert port["port"] == (parts.port or 80)
        (exposed,) = container["ports"]
        assert port["targetPort"] == exposed["name"]
        assert policy_ports(rule) == {("TCP", exposed["containerPort"])}
        assert rule["to"][0]["podSelector"]["matchLabels"] == pod["metadata"]["labels"]
        own = found.named("NetworkPolicy", parts.hostname)["spec"]
        assert policy_ports(own["ingress"][0]) == {("TCP", exposed["containerPort"])}
    simulator = found.named("Deployment", "lebureau-api")["spec"]["template"]["spec"]
    (simulate,) = simulator["containers"]
    assert simulate["args"][-1] == str(simulate["ports"][0]["containerPort"])
    assert simulate["image"] == found.container["image"]


@pytest.mark.parametrize("name", ALL)
def test_probes_and_scrapes_ask_for_what_the_admin_listener_answers(name):
    found = render(name)
    served = paths(build_admin(AdminRules("0"), None))
    probes = {
        kind: found.container[kind]["httpGet"]
        for kind in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert all(probe["port"] == "admin" and probe["path"] in served for probe in probes.values())
    assert probes["livenessProbe"]["path"] == "/healthz", "an outage elsewhere restarts nobody"
    assert probes["readinessProbe"]["path"] == "/readyz"
    for monitor in found.all("PodMonitor"):
        assert monitor["spec"]["podMetricsEndpoints"][0]["path"] in served


def paths(app: web.Application):
    return {resource.canonical for resource in app.router.resources()}


@pytest.mark.parametrize("module", [(), (CLIENT_MODULE,)])
def test_the_ingress_sends_the_streams_to_the_relay_and_everything_else_to_the_api(
    settings_of, module
):
    name = "production with client module" if module else "production"
    streams, rest = (
        render(name).named("Ingress", f"lebureau-{who}")["spec"] for who in ("relay", "api")
    )
    (rule,), (other,) = streams["rules"], rest["rules"]
    assert [one["path"] for one in rule["http"]["paths"]] == [
        *stream_paths(settings_of(name)),
        *module,
    ]
    for one in rule["http"]["paths"]:
        assert one["pathType"] == "Exact"
        assert one["backend"] == {"service": {"name": "lebureau-relay", "port": {"name": "http"}}}
    (everything,) = other["http"]["paths"]
    assert (everything["path"], everything["pathType"]) == ("/", "Prefix")
    assert everything["backend"]["service"]["name"] == "lebureau-api"
    for spec, (one,) in ((streams, streams["rules"]), (rest, rest["rules"])):
        assert one["host"] == rule["host"]
        assert spec["ingressClassName"] == "nginx"
        assert [tls["hosts"] for tls in spec["tls"]] == [[one["host"]]], "no HTTP/2 without it"


def test_the_route_sends_the_streams_to_the_relay_and_everything_else_to_the_api(settings_of):
    found = render("gateway")
    ours, rest = found.named("HTTPRoute", "lebureau-relay")["spec"]["rules"]
    asked = [one["path"] for one in ours["matches"]]
    assert {one["type"] for one in asked} == {"Exact"}
    assert [one["value"] for one in asked] == [*stream_paths(settings_of("gateway")), CLIENT_MODULE]
    (service,) = found.named("Service", "lebureau-relay")["spec"]["ports"]
    assert ours["backendRefs"] == [{"name": "lebureau-relay", "port": service["port"]}]
    assert rest["matches"] == [{"path": {"type": "PathPrefix", "value": "/"}}]
    assert rest["backendRefs"] == [{"name": "lebureau-api", "port": 80}]


def stream_paths(settings):
    return [stream.path for stream in settings.streams]


def test_the_relay_does_not_subscribe_by_way_of_the_ingress_that_leads_to_itself(settings_of):
    found = render("production")
    rules = [rule for one in found.all("Ingress") for rule in one["spec"]["rules"]]
    host = urlsplit(settings_of("production").upstream.base_url).hostname
    assert host not in {rule["host"] for rule in rules}
    (api,) = (
        path["backend"]["service"]
        for rule in rules
        for path in rule["http"]["paths"]
        if path["path"] == "/"
    )
    assert host == api["name"], "both ways lead to the same API"
