"""Settings: the defaults of the contract, two sources, and every mistake told at once."""

import json
from pathlib import Path

import pytest
import yaml

from lebureau_relay.config import Settings, effective, load
from lebureau_relay.errors import ConfigError

SHIPPED = Path(__file__).parents[1] / "config" / "relay.yaml"

# The contract's section 2, value by value: neither the code nor the shipped file may drift from it.
CONTRACT = {
    "listen": {"host": "0.0.0.0", "port": 8080},
    "admin": {
        "host": "127.0.0.1",
        "port": 9090,
        "allowed_hosts": ["localhost", "127.0.0.1", "[::1]"],
        "token_file": "",
    },
    "upstream": {
        "base_url": "https://lebureau.talentai.fr",
        "connect_timeout": 10,
        "idle_timeout": 60,
        "max_event_bytes": 1048576,
        "retry_min": 0.5,
        "retry_max": 30,
    },
    "streams": [
        {"name": "desktops", "path": "/api/desktops/stream", "forward_query": []},
        {"name": "activity", "path": "/api/mission-control/activity/stream", "forward_query": []},
    ],
    "auth": {
        "api_key_header": "x-api-key",
        "query_parameter": "apiKey",
        "cookie_pattern": "^__(Host|Secure)-",
        "probe_path": "/api/desktops",
        "identity_path": "",
        "identity_fields": ["id", "capabilities"],
        "recheck_interval": 60,
        "max_stale": 0,
    },
    "limits": {
        "connects_per_minute": 120,
        "failed_auth_per_minute": 5,
        "upstream_auth_failures_per_minute": 8,
        "streams_per_user": 100,
        "streams_total": 0,
        "on_excess": "refuse_newest",
        "browser_refusals": "retry",
    },
    "replay": {
        "max_events": 1000,
        "max_bytes": 1048576,
        "max_age": 300,
        "total_bytes": 268435456,
        "catchup_timeout": 5,
    },
    "feed": {"linger": 30},
    "stream": {
        "heartbeat": 15,
        "retry": 3,
        "buffer_bytes": 262144,
        "write_timeout": 30,
        "max_age": 0,
    },
    "redis": {"url": "", "prefix": "lbr", "hash_secret": "", "lease_ttl": 6},
    "drain": {"delay": 0, "spread": 10},
    "balance": {"max_per_second": 10, "min_age": 300},
    "cors": {"allowed_origins": []},
    "proxy": {"trusted": []},
    "log": {"level": "info", "format": "auto"},
    "tracing": {"endpoint": "", "sample_ratio": 1},
}


def mistakes(path: Path | None = None, **env: str) -> tuple[str, ...]:
    """What `load` complains about, for a file and for variables named without their prefix."""
    with pytest.raises(ConfigError) as caught:
        load(path, {f"LEBUREAU_RELAY_{name}": value for name, value in env.items()})
    return caught.value.mistakes


def only(path: Path | None = None, **env: str) -> str:
    (mistake,) = mistakes(path, **env)
    return mistake


@pytest.fixture
def file(tmp_path):
    """Writes a settings file from YAML text."""

    def write(text: str) -> Path:
        path = tmp_path / "relay.yaml"
        path.write_text(text)
        return path

    return write


class TestSources:
    def test_the_defaults_are_the_contracts(self):
        assert yaml.safe_load(effective(load(None, {}))) == CONTRACT

    def test_the_shipped_file_names_every_setting_with_its_default(self):
        assert yaml.safe_load(SHIPPED.read_text()) == CONTRACT
        assert load(SHIPPED, {}) == Settings()

    def test_the_shipped_file_says_something_of_every_section(self):
        lines = SHIPPED.read_text().splitlines()
        starts = [n for n, line in enumerate(lines) if line and line[0].isalpha()]
        assert len(starts) == len(CONTRACT)
        assert all("#" in lines[n - 1] or "#" in lines[n + 1] for n in starts)

    def test_what_is_in_force_can_be_loaded_again(self, file):
        path = file(effective(Settings()))
        assert load(path, {}) == Settings()

    def test_the_environment_wins_over_the_file_setting_by_setting(self, file):
        path = file("listen: {host: 127.0.0.1, port: 1}\nfeed: {linger: 2}")
        settings = load(path, {"LEBUREAU_RELAY_LISTEN__PORT": "2", "PATH": "/bin"})
        assert (settings.listen.host, settings.listen.port) == ("127.0.0.1", 2)
        assert settings.feed.linger == 2

    def test_lists_and_maps_are_json_in_the_environment(self):
        streams = [{"name": "a", "path": "/a", "forward_query": ["since"]}]
        settings = load(
            None,
            {
                "LEBUREAU_RELAY_STREAMS": json.dumps(streams),
                "LEBUREAU_RELAY_LISTEN": '{"port": 7}',
                "LEBUREAU_RELAY_PROXY__TRUSTED": '["10.0.0.0/8", "::1"]',
            },
        )
        assert settings.streams[0].forward_query == ("since",)
        assert settings.listen.port == 7
        assert list(map(str, settings.proxy.trusted)) == ["10.0.0.0/8", "::1/128"]

    def test_names_in_the_environment_may_be_lower_case(self):
        assert load(None, {"lebureau_relay_feed__linger": "1"}).feed.linger == 1

    def test_the_process_environment_is_not_read(self, monkeypatch):
        monkeypatch.setenv("LEBUREAU_RELAY_FEED__LINGER", "1")
        assert Settings().feed.linger == load(None, {}).feed.linger == 30

    def test_a_key_left_blank_means_the_default(self, file):
        assert load(file("listen:\nupstream:\n  retry_min:\n"), {}) == Settings()

    def test_an_empty_file_means_the_defaults(self, file):
        assert load(file("# nothing\n"), {}) == Settings()

    def test_what_kubernetes_says_of_a_service_of_our_name_is_no_setting(self):
        links = {
            "LEBUREAU_RELAY_PORT": "tcp://10.0.0.1:80",
            "LEBUREAU_RELAY_PORT_80_TCP": "tcp://10.0.0.1:80",
            "LEBUREAU_RELAY_PORT_80_TCP_ADDR": "10.0.0.1",
            "LEBUREAU_RELAY_SERVICE_HOST": "10.0.0.1",
            "LEBUREAU_RELAY_SERVICE_PORT_HTTP": "80",
            "LEBUREAU_RELAY_ADMIN_PORT": "tcp://10.0.0.2:80",
        }
        assert load(None, links) == Settings()

    def test_but_a_port_that_is_a_slip_of_the_pen_is_told(self):
        assert "did you mean LEBUREAU_RELAY_ADMIN__PORT?" in only(ADMIN_PORT="80")


class TestMistakes:
    def test_all_are_told_at_once_wherever_they_stand(self, file):
        path = file("listen: {port: 70000, prot: 1}\nlimits: {on_excess: never}\nfoo: 1")
        told = mistakes(path, UPSTREAM__RETRY_MIN="40", DRAIN__DELAY="soon", LOG__LEVL="debug")
        assert sorted(mistake.split(":")[0] for mistake in told) == [
            "LEBUREAU_RELAY_LOG__LEVL",
            "drain.delay",
            "foo",
            "limits.on_excess",
            "listen.port",
            "listen.prot",
            "upstream.retry_min",
        ]

    def test_each_says_setting_value_problem_mend_and_place(self, file):
        path = file("listen: {port: 70000}")
        assert only(path) == (
            f"listen.port: 70000 is out of range; give a whole number from 0 to 65535 [{path}]"
        )
        assert only(DRAIN__DELAY="soon") == (
            'drain.delay: "soon" isn\'t a number; give a number from 0 to 3600'
            " [LEBUREAU_RELAY_DRAIN__DELAY]"
        )

    @pytest.mark.parametrize(
        ("name", "value", "problem"),
        [
            ("LISTEN__HOST", "", "can't be used"),
            ("LISTEN__PORT", "-1", "from 0 to 65535"),
            ("LISTEN__PORT", "http", "isn't a whole number"),
            ("LISTEN", "{", "isn't a group of settings"),
            ("LISTEN", '{"port": true}', "yes or no"),
            ("ADMIN__ALLOWED_HOSTS", '["http://x"]', "without scheme and port"),
            ("ADMIN__ALLOWED_HOSTS", "localhost", 'write one like ["a", "b"]'),
            ("ADMIN__TOKEN_FILE", "/no/such/file", "can't be read"),
            ("UPSTREAM__BASE_URL", "lebureau.example", "isn't an http or https origin"),
            ("UPSTREAM__BASE_URL", "ftp://a.example", "isn't an http or https origin"),
            ("UPSTREAM__BASE_URL", "http://a.example:x", "isn't an http or https origin"),
            ("UPSTREAM__BASE_URL", "http://a.example/?x=1", "path, query or fragment"),
            ("UPSTREAM__BASE_URL", "http://a.example/v1", "path, query or fragment"),
            ("UPSTREAM__CONNECT_TIMEOUT", "10000", "from 0.05 to 300"),
            ("UPSTREAM__IDLE_TIMEOUT", "nan", "out of range"),
            ("UPSTREAM__IDLE_TIMEOUT", "inf", "out of range"),
            ("UPSTREAM__MAX_EVENT_BYTES", "1.5", "isn't a whole number"),
            ("STREAMS", "[]", "is empty"),
            ("STREAMS", "desktops", "isn't a list of streams"),
            ("STREAMS", '[{"name": "a"}]', "is missing"),
            ("STREAMS", '[{"name": "A B", "path": "/a"}]', "lower-case"),
            ("STREAMS", '[{"name": "a", "path": "a"}]', "starts with one /"),
            ("STREAMS", '[{"name": "a", "path": "//evil.example"}]', "starts with one /"),
            ("STREAMS", '[{"name": "a", "path": "/{x}"}]', "plain path"),
            ("STREAMS", '[{"name": "a", "path": "/a", "querry": 1}]', "is no setting"),
            ("AUTH__API_KEY_HEADER", "x api", "isn't a header name"),
            ("AUTH__API_KEY_HEADER", "Cookie", "another meaning"),
            ("AUTH__QUERY_PARAMETER", "a=b", "can't be used"),
            ("AUTH__QUERY_PARAMETER", "lastEventId", "carries the cursor"),
            ("AUTH__COOKIE_PATTERN", "([", "isn't a regular expression"),
            ("AUTH__PROBE_PATH", "api", "start it with one /"),
            ("AUTH__IDENTITY_PATH", "//evil.example/me", "start it with one /"),
            ("AUTH__IDENTITY_FIELDS", "[]", "is empty"),
            ("AUTH__IDENTITY_FIELDS", '[""]', "is empty"),
            ("LIMITS__STREAMS_PER_USER", "0", "from 1 to"),
            ("LIMITS__ON_EXCESS", "retire", "take refuse_newest or retire_oldest"),
            ("REDIS__URL", "http://r.example", "isn't a Redis address"),
            ("REDIS__URL", "redis://", "isn't a Redis address"),
            ("REDIS__PREFIX", "{lbr}", "can't be used"),
            ("REDIS__HASH_SECRET", "file:/no/such/file", "can't be read"),
            ("CORS__ALLOWED_ORIGINS", '["*"]', "wildcard"),
            ("CORS__ALLOWED_ORIGINS", '["https://a.example/"]', "write https://a.example "),
            ("CORS__ALLOWED_ORIGINS", '["https://A.example"]', "write https://a.example "),
            ("CORS__ALLOWED_ORIGINS", '["https://a.example:443"]', "write https://a.example "),
            ("CORS__ALLOWED_ORIGINS", '["null"]', "isn't an http or https origin"),
            ("CORS__ALLOWED_ORIGINS", "[1]", "isn't text"),
            ("PROXY__TRUSTED", '["10.0.0.1/8"]', "write 10.0.0.0/8"),
            ("PROXY__TRUSTED", '["proxies"]', "isn't an address range"),
            ("PROXY__TRUSTED", "[5]", "isn't an address range"),
            ("LOG__FORMAT", "xml", "take auto or console or json"),
        ],
    )
    def test_a_value_that_can_not_be(self, name, value, problem):
        told = only(**{name: value})
        assert told.startswith(name.split("__")[0].lower())
        assert problem in told
        assert "; " in told, "no mend"
        assert f"[LEBUREAU_RELAY_{name}]" in told

    @pytest.mark.parametrize(
        ("env", "problem"),
        [
            ({"UPSTREAM__RETRY_MIN": "40"}, "40 is more than upstream.retry_max (30)"),
            ({"REPLAY__TOTAL_BYTES": "4096"}, "is more than replay.total_bytes (4096)"),
            ({"REDIS__URL": "redis://r.example"}, "redis.hash_secret: is missing"),
            ({"ADMIN__PORT": "8080"}, "8080 is the public listener's too"),
            (
                {"STREAMS": '[{"name": "a", "path": "/a"}, {"name": "a", "path": "/b"}]'},
                "name a stands there twice",
            ),
            (
                {"STREAMS": '[{"name": "a", "path": "/a"}, {"name": "b", "path": "/a"}]'},
                "path /a stands there twice",
            ),
            (
                {"STREAMS": '[{"name": "a", "path": "/a", "forward_query": ["apiKey"]}]'},
                "apiKey carries the key or the cursor",
            ),
            (
                {"STREAMS": '[{"name": "a", "path": "/a", "forward_query": ["lastEventId"]}]'},
                "lastEventId carries the key or the cursor",
            ),
        ],
    )
    def test_settings_that_do_not_go_together(self, env, problem):
        assert problem in only(**env)

    def test_what_depends_on_a_wrong_value_is_not_told_too(self):
        assert only(UPSTREAM__RETRY_MIN="40", UPSTREAM__RETRY_MAX="x").startswith(
            "upstream.retry_max"
        )

    def test_any_port_goes_with_any_port(self):
        assert load(None, {"LEBUREAU_RELAY_LISTEN__PORT": "0", "LEBUREAU_RELAY_ADMIN__PORT": "0"})

    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            ("listen: {prt: 1}", "listen.port"),
            ("upstream: {baseurl: x}", "upstream.base_url"),
            ("upsteam: {}", "upstream"),
            ("replay: {max_event: 1}", "replay.max_events"),
        ],
    )
    def test_an_unknown_key_suggests_the_nearest(self, file, written, meant):
        assert f"did you mean {meant}?" in only(file(written))

    def test_one_that_is_near_to_nothing_is_to_be_removed(self, file):
        assert "remove it" in only(file("xyzzy: 1"))


class TestFiles:
    def test_one_that_is_missing(self, tmp_path):
        assert only(tmp_path / "no.yaml").endswith(
            "no.yaml: No such file or directory; give the path of a settings file"
        )

    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ("listen: [", "line 1, column 10"),
            ("listen:\n  port: 1\n  port: 2\n", "line 3, column 3"),
            ("listen:\n\tport: 1\n", "line 2, column 1"),
            ("? [a]\n: 1\n", "line 1, column 3"),
        ],
    )
    def test_one_that_is_no_yaml_says_where(self, file, text, place):
        told = only(file(text))
        assert place in told
        assert "isn't YAML" in told

    @pytest.mark.parametrize(
        ("data", "problem"), [(b"a: \xff", "UTF-8"), (b"\x00", "characters"), (b"- 1", "sections")]
    )
    def test_one_that_is_something_else(self, tmp_path, data, problem):
        path = tmp_path / "relay.yaml"
        path.write_bytes(data)
        assert problem in only(path)

    def test_the_environments_mistakes_are_told_beside_it(self, tmp_path):
        assert len(mistakes(tmp_path / "no.yaml", LISTEN__PORT="x")) == 2


class TestSecrets:
    PASSWORD = "hunter2-battery"

    def test_none_is_printed(self):
        settings = load(
            None,
            {
                "LEBUREAU_RELAY_REDIS__URL": f"rediss://me:{self.PASSWORD}@r.example:6379/0",
                "LEBUREAU_RELAY_REDIS__HASH_SECRET": self.PASSWORD,
            },
        )
        shown = effective(settings)
        assert self.PASSWORD not in shown + repr(settings) + str(settings)
        assert yaml.safe_load(shown)["redis"]["url"] == "rediss://***@r.example:6379/0"
        assert settings.redis.hash_secret.get_secret_value() == self.PASSWORD

    @pytest.mark.parametrize(
        "url",
        [
            "redis://{}@r.example",
            "redis://:{}?x@r.example",
            "redis://r.example?password={}",
            "redis://r.example?password=a@{}",
            "redis+sentinel://u:{}@a.example:1,b.example:2/main",
        ],
    )
    def test_wherever_the_address_holds_it(self, url):
        env = {"LEBUREAU_RELAY_REDIS__HASH_SECRET": "s"}
        settings = load(None, env | {"LEBUREAU_RELAY_REDIS__URL": url.format(self.PASSWORD)})
        assert self.PASSWORD not in effective(settings)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("UPSTREAM__BASE_URL", "https://me:{}@api.example"),
            ("UPSTREAM__BASE_URL", "https://api.example/?apiKey={}"),
            ("REDIS__URL", "reddis://me:{}@r.example"),
            ("REDIS", '{{"url": "redis://:{}@r.example"'),
            ("ADMIN__TOKEN_FILE", "{}"),
            ("AUTH__IDENTITY_PATH", "/v1/me?apiKey={}"),
            ("AUTH__IDENTITY_PATH", "/v1/me?lb_k_{}"),
            ("TOKEN", "{}"),
        ],
    )
    def test_a_mistake_does_not_repeat_one(self, name, value):
        assert self.PASSWORD not in only(**{name: value.format(self.PASSWORD)})

    def test_the_hash_secret_may_come_from_a_file(self, tmp_path):
        path = tmp_path / "secret"
        path.write_text("s3cret\n")
        settings = load(None, {"LEBUREAU_RELAY_REDIS__HASH_SECRET": f"file:{path}"})
        assert settings.redis.hash_secret.get_secret_value() == "s3cret"

    def test_the_operators_token_comes_from_its_file(self, tmp_path):
        path = tmp_path / "token"
        path.write_text("s3cret-of-16-char\n")
        admin = load(None, {"LEBUREAU_RELAY_ADMIN__TOKEN_FILE": str(path)}).admin
        token = admin.token()
        assert token is not None
        assert token.get_secret_value() == "s3cret-of-16-char"
        path.unlink()
        with pytest.raises(ConfigError, match=r"admin\.token_file: .* can't be read"):
            admin.token()
        assert Settings().admin.token() is None

    @pytest.mark.parametrize(
        ("data", "problem"), [(b"\n", "empty"), (b"\xff", "not UTF-8"), (b"short", "openssl rand")]
    )
    def test_a_file_without_a_secret_is_a_mistake(self, tmp_path, data, problem):
        path = tmp_path / "token"
        path.write_bytes(data)
        assert problem in only(ADMIN__TOKEN_FILE=str(path))


def test_settings_are_immutable():
    with pytest.raises(ValueError, match="frozen"):
        Settings().listen.port = 1


@pytest.mark.parametrize(("hard", "total"), [(20_000, 18_976), (1024, 1), (-1, 1_048_576 - 1024)])
def test_streams_total_follows_the_hard_descriptor_limit(monkeypatch, hard, total):
    monkeypatch.setattr("resource.getrlimit", lambda _which: (256, hard))
    assert Settings().limits.resolved_streams_total() == total


def test_streams_total_that_is_given_stands():
    limits = load(None, {"LEBUREAU_RELAY_LIMITS__STREAMS_TOTAL": "5"}).limits
    assert limits.resolved_streams_total() == 5
