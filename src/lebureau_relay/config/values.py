"""The kinds of value that settings have, each with its own check.

They stand apart from the settings so that a check is written once and the list of settings reads as
a table. A check raises ValueError with `problem; mend`; `mistakes` puts the setting before it.
"""

import re
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

CURSOR_PARAMETERS = ("lastEventId", "last_event_id", "Last-Event-ID")
"""Query parameters that carry a cursor (contract, section 3); no other use may be made of them."""

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, section 5.6.2
_PARAMETER = re.compile(
    r"[A-Za-z0-9._~-]+"
)  # RFC 3986 unreserved: no spelling of it needs escaping
_PATH = re.compile(
    r"/(?!/)[^\s?#{}\\]*"
)  # `//host` would leave the origin; braces are the router's
_LABEL = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,64}")  # braces would move the cluster's hash tag
_HOST = re.compile(r"[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]")
_REDIS_SCHEMES = ("redis", "rediss", "redis+sentinel", "redis+cluster")
# Headers that have a meaning of their own on the way, so a key can't travel in them.
_TAKEN_HEADERS = frozenset({"host", "cookie", "authorization", "connection", "transfer-encoding"})


def _number(value: object) -> object:
    # Python counts True as 1 and pydantic follows; `port: yes` is a slip, not port 1.
    if isinstance(value, bool):
        raise ValueError("is a yes or no; give a number")  # noqa: TRY004 - pydantic collects ValueError
    return value


def _matching(pattern: re.Pattern[str], mend: str) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f"can't be used; {mend}")
        return value

    return AfterValidator(check)


def _split(url: str) -> SplitResult | None:
    """The parts of a URL, None where it has no host or no sensible port."""
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.hostname and parts.port != 0:
            return parts
    return None


def _origin(value: str, schemes: tuple[str, ...], example: str) -> str:
    parts = _split(value)
    mend = f"write scheme, host and port only, like {example}"
    if parts is None or parts.scheme not in schemes or re.search(r"\s", value):
        raise ValueError(f"isn't an {' or '.join(schemes)} origin; {mend}")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"holds a user or password; {mend}")
    if parts.path.strip("/") or parts.query or parts.fragment or value.endswith(("?", "#")):
        raise ValueError(f"has a path, query or fragment; {mend}")
    return value.rstrip("/")


def _base_url(value: str) -> str:
    return _origin(value, ("http", "https"), "https://api.example.com")


def _browser_origin(value: str) -> str:
    """An origin as browsers write it in `Origin` (RFC 6454, section 6.2): others never match."""
    if "*" in value:
        raise ValueError("has a wildcard, which would lend cookies to strangers; list each origin")
    origin = _origin(value, ("http", "https"), "https://app.example.com")
    default = {"http": ":80", "https": ":443"}[urlsplit(origin).scheme]
    exact = origin.lower().removesuffix(default)
    if exact != value:
        raise ValueError(f"isn't written as browsers write it; write {exact}")
    return value


def _header(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise ValueError("isn't a header name; give one like x-api-key")
    if value.lower() in _TAKEN_HEADERS:
        raise ValueError("has another meaning; give a header of its own, like x-api-key")
    return value


def _parameter(value: str) -> str:
    if value in CURSOR_PARAMETERS:
        raise ValueError("carries the cursor; give the key another name, like apiKey")
    return value


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"isn't a regular expression ({error}); mend or quote it") from None
    return value


def _network(value: object) -> object:
    """An address range; one with host bits set can be read in two ways, so it is asked back."""
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if not isinstance(value, str):
        raise ValueError("isn't an address range; put it in quotes")  # noqa: TRY004 - as above
    with suppress(ValueError):
        return ip_network(value)
    try:
        meant = f"write {ip_network(value, strict=False)} for the network or the address alone"
    except ValueError:
        meant = "write one like 10.0.0.0/8 or 2001:db8::/32"
    raise ValueError(f"isn't an address range; {meant}")


def _redis_url(value: SecretStr) -> SecretStr:
    scheme, _, rest = value.get_secret_value().partition("://")
    if rest.strip("/") and scheme in _REDIS_SCHEMES:
        return value
    if not value.get_secret_value():
        return value
    raise ValueError(f"isn't a Redis address; start with one of {'://, '.join(_REDIS_SCHEMES)}://")


# Wrong guesses are told but not held up: a lock could be turned against the operators themselves.
# So the token has to be one that nobody guesses.
_LEAST_TOKEN = 16


def read_secret(path: str) -> str:
    """The secret in a file, without the line end that editors add. Raises ValueError."""
    try:
        secret = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ValueError(
            f"names a file that can't be read ({why}); give the path of a file with the secret"
        ) from None
    if not secret:
        raise ValueError("names an empty file; put the secret into it")
    return secret


def _secret(value: SecretStr) -> SecretStr:
    scheme, _, path = value.get_secret_value().partition(":")
    return SecretStr(read_secret(path)) if scheme == "file" else value


def _secret_file(value: str) -> str:
    if value and len(read_secret(value)) < _LEAST_TOKEN:
        raise ValueError(
            f"names a file with a secret of less than {_LEAST_TOKEN} characters, which can be "
            "guessed; put a longer one into it, as `openssl rand -hex 32` makes them"
        )
    return value


Whole = Annotated[int, BeforeValidator(_number)]
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Port = Annotated[Whole, Field(ge=0, le=65535)]
Host = Annotated[
    str, _matching(re.compile(r"[^\s/]+"), "give an address or host name, like 127.0.0.1")
]
HostHeader = Annotated[
    str, _matching(_HOST, "give a host name without scheme and port, like ops.example.com or [::1]")
]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
OptionalBaseUrl = Annotated[str, AfterValidator(lambda value: value and _base_url(value))]
BrowserOrigin = Annotated[str, AfterValidator(_browser_origin)]
HeaderName = Annotated[str, AfterValidator(_header)]
ParameterName = Annotated[str, _matching(_PARAMETER, "use letters, digits and . _ ~ - only")]
KeyParameter = Annotated[ParameterName, AfterValidator(_parameter)]
RegExp = Annotated[str, AfterValidator(_pattern)]
UrlPath = Annotated[str, _matching(_PATH, "write a plain path that starts with one /, like /v1/me")]
OptionalUrlPath = Annotated[
    str, _matching(re.compile(f"(?:{_PATH.pattern})?"), "start it with one /, or leave it empty")
]
FieldName = Annotated[str, Field(min_length=1)]
Label = Annotated[
    str, _matching(_LABEL, "use up to 32 lower-case letters, digits, - and _, a letter first")
]
KeyPrefix = Annotated[str, _matching(_PREFIX, "use up to 64 letters, digits and . _ : -")]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
RedisUrl = Annotated[SecretStr, AfterValidator(_redis_url)]
Secret = Annotated[SecretStr, AfterValidator(_secret)]
SecretFile = Annotated[str, AfterValidator(_secret_file)]
