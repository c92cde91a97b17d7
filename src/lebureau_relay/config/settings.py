"""Every setting, its default and its bounds: the table of the contract's section 2 as types.

Durations are seconds. Defaults are the contract's; a bound keeps a slip of the pen (milliseconds
for seconds, a digit too many) from becoming an outage, and is wide enough for every sensible
deployment and for quick tests. What the settings mean to an operator stands in `config/relay.yaml`.
"""

import resource
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_serializer

from lebureau_relay.config.values import (
    BaseUrl,
    BrowserOrigin,
    FieldName,
    HeaderName,
    Host,
    HostHeader,
    KeyParameter,
    KeyPrefix,
    Label,
    Network,
    Number,
    OptionalBaseUrl,
    OptionalUrlPath,
    ParameterName,
    Port,
    RedisUrl,
    RegExp,
    Secret,
    SecretFile,
    UrlPath,
    Whole,
    read_secret,
)
from lebureau_relay.errors import ConfigError
from lebureau_relay.logs import MASK

MEBIBYTE = 1024 * 1024
DAY_S = 86_400
RESERVED_DESCRIPTORS = 1024
"""Left to upstream, Redis, files and connections that are no streams."""
_UNLIMITED_DESCRIPTORS = 1_048_576  # fs.nr_open of Linux: no process gets more unless it is raised


def descriptor_limit() -> int:
    """How many descriptors the system grants this process at most."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return _UNLIMITED_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard


class Section(BaseModel):
    """A group of settings: immutable, and closed to keys it doesn't know."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Listen(Section):
    """The public listener."""

    host: Host = "0.0.0.0"  # noqa: S104 - a relay is there to be reached; the contract's default
    port: Port = 8080


class Admin(Section):
    """Probes, metrics, status and console."""

    host: Host = "127.0.0.1"
    port: Port = 9090
    allowed_hosts: tuple[HostHeader, ...] = ("localhost", "127.0.0.1", "[::1]")
    token_file: SecretFile = ""

    def token(self) -> SecretStr | None:
        """The secret for operator verbs, None where they are off.

        Raises ConfigError if its file has become unreadable since the settings were loaded.
        """
        try:
            return SecretStr(read_secret(self.token_file)) if self.token_file else None
        except ValueError as error:
            raise ConfigError([f"admin.token_file: {error}"]) from None


class Upstream(Section):
    """The API that events come from."""

    base_url: BaseUrl = "https://lebureau.talentai.fr"
    connect_timeout: Number = Field(10, ge=0.05, le=300)
    idle_timeout: Number = Field(60, ge=0.05, le=3600)
    max_event_bytes: Whole = Field(MEBIBYTE, ge=1024, le=64 * MEBIBYTE)
    retry_min: Number = Field(0.5, ge=0.01, le=300)
    retry_max: Number = Field(30, ge=0.01, le=300)


class StreamEntry(Section):
    """One stream that the relay serves, under the same path here and upstream."""

    name: Label
    path: UrlPath
    forward_query: tuple[ParameterName, ...] = ()


class Auth(Section):
    """How clients say who they are, and how upstream is asked about it."""

    api_key_header: HeaderName = "x-api-key"
    query_parameter: KeyParameter = "apiKey"
    cookie_pattern: RegExp = "^__(Host|Secure)-"
    probe_path: OptionalUrlPath = "/api/desktops"
    identity_path: OptionalUrlPath = ""
    identity_fields: tuple[FieldName, ...] = Field(("id", "capabilities"), min_length=1)
    recheck_interval: Number = Field(60, ge=0.05, le=DAY_S)
    max_stale: Number = Field(0, ge=0, le=30 * DAY_S)


class Limits(Section):
    """What one identity, one address and the whole process may take."""

    connects_per_minute: Whole = Field(120, ge=0, le=1_000_000)
    failed_auth_per_minute: Whole = Field(5, ge=1, le=1_000_000)
    upstream_auth_failures_per_minute: Whole = Field(8, ge=1, le=1_000_000)
    streams_per_user: Whole = Field(100, ge=1, le=1_000_000)
    streams_total: Whole = Field(0, ge=0, le=10_000_000)
    on_excess: Literal["refuse_newest", "retire_oldest"] = "refuse_newest"
    browser_refusals: Literal["retry", "status"] = "retry"

    def resolved_streams_total(self) -> int:
        """Open streams per process; 0 becomes the hard descriptor limit less the reserve."""
        if self.streams_total:
            return self.streams_total
        return max(1, descriptor_limit() - RESERVED_DESCRIPTORS)


class Replay(Section):
    """Bounds of the histories."""

    max_events: Whole = Field(1000, ge=1, le=1_000_000)
    max_bytes: Whole = Field(MEBIBYTE, ge=1024, le=1024 * MEBIBYTE)
    max_age: Number = Field(300, ge=0.05, le=DAY_S)
    total_bytes: Whole = Field(256 * MEBIBYTE, ge=1024, le=1024 * 1024 * MEBIBYTE)
    catchup_timeout: Number = Field(5, ge=0.05, le=60)


class Feed(Section):
    """Life of a feed."""

    linger: Number = Field(30, ge=0, le=DAY_S)


class Stream(Section):
    """What one open stream is given."""

    heartbeat: Number = Field(15, ge=0.05, le=300)
    retry: Number = Field(3, ge=0.05, le=300)
    buffer_bytes: Whole = Field(262_144, ge=1024, le=64 * MEBIBYTE)
    write_timeout: Number = Field(30, ge=0.05, le=3600)
    max_age: Number = Field(0, ge=0, le=30 * DAY_S)


class Redis(Section):
    """The server that replicas share; none by default."""

    url: RedisUrl = SecretStr("")
    prefix: KeyPrefix = "lbr"
    hash_secret: Secret = SecretStr("")
    lease_ttl: Number = Field(6, ge=0.5, le=300)

    @field_serializer("hash_secret")
    def _hidden(self, secret: SecretStr) -> str:
        return MASK if secret.get_secret_value() else ""

    @field_serializer("url")
    def _masked(self, url: SecretStr) -> str:
        """The address as people may read it: users, passwords and options hidden."""
        scheme, mark, rest = url.get_secret_value().partition("://")
        login, at, place = rest.rpartition("@")
        place, question, _ = place.partition("?")
        if (
            "?" in login
        ):  # a password with a question mark, or an option with an at sign: which is which?
            return f"{scheme}{mark}{MASK}"
        return f"{scheme}{mark}{at and f'{MASK}@'}{place}{question and f'?{MASK}'}"


class Drain(Section):
    """Leaving service."""

    delay: Number = Field(0, ge=0, le=3600)
    spread: Number = Field(10, ge=0, le=3600)


class Balance(Section):
    """Evening out among replicas that share a Redis."""

    max_per_second: Number = Field(10, ge=0, le=10_000)
    min_age: Number = Field(300, ge=0, le=DAY_S)


class Cors(Section):
    """Browsers of other origins."""

    allowed_origins: tuple[BrowserOrigin, ...] = ()


class Proxy(Section):
    """Proxies in front."""

    trusted: tuple[Network, ...] = ()


class Log(Section):
    """What the relay writes to stderr. `auto` is `console` on a terminal and `json` elsewhere."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class Tracing(Section):
    """Spans for OpenTelemetry; none without an endpoint."""

    endpoint: OptionalBaseUrl = ""
    sample_ratio: Number = Field(1, ge=0, le=1)


class Settings(Section):
    """All settings. `Settings()` is the defaults; only `load` reads file and environment."""

    listen: Listen = Listen()
    admin: Admin = Admin()
    upstream: Upstream = Upstream()
    streams: tuple[StreamEntry, ...] = Field(
        (
            StreamEntry(name="desktops", path="/api/desktops/stream"),
            StreamEntry(name="activity", path="/api/mission-control/activity/stream"),
        ),
        min_length=1,
        max_length=64,  # each is a label value in every metric
    )
    auth: Auth = Auth()
    limits: Limits = Limits()
    replay: Replay = Replay()
    feed: Feed = Feed()
    stream: Stream = Stream()
    redis: Redis = Redis()
    drain: Drain = Drain()
    balance: Balance = Balance()
    cors: Cors = Cors()
    proxy: Proxy = Proxy()
    log: Log = Log()
    tracing: Tracing = Tracing()
