"""The error tree, and the closed sets of names for refusals, ends and upstream problems.

    Exception
    └── RelayError                  anything a person is told about; str() is the sentence
        ├── ConfigError             settings that can't be used: every mistake at once
        ├── StartError              the process can't take up service (port taken, wrong loop)
        ├── Refusal                 a request that gets no stream: a code of the contract, section 5
        └── SourceFailure           upstream didn't open, or ended, a subscription: a SourceProblem

Errors carry facts and format themselves; nobody parses their text. They stand on the lowest floor
so that every room can raise and catch them without importing its neighbours.
"""

from collections.abc import Iterable
from enum import StrEnum


class CloseReason(StrEnum):
    """Why a stream ended: the one closed set of the contract, section 6."""

    CLIENT_GONE = "client_gone"
    SLOW = "slow"
    CREDENTIAL_REVOKED = "credential_revoked"
    MAX_AGE = "max_age"
    RETIRED = "retired"
    REBALANCED = "rebalanced"
    OPERATOR = "operator"
    DRAINING = "draining"
    UPSTREAM_ENDED = "upstream_ended"
    INTERNAL_ERROR = "internal_error"


class RefusalCode(StrEnum):
    """Why a request got no stream: the closed set of the contract, section 5."""

    UPSTREAM_ENDED = "upstream_ended"
    CONFLICTING_CREDENTIALS = "conflicting_credentials"
    BAD_REQUEST = "bad_request"
    MISSING_CREDENTIAL = "missing_credential"
    INVALID_CREDENTIAL = "invalid_credential"
    FORBIDDEN = "forbidden"
    ORIGIN_NOT_ALLOWED = "origin_not_allowed"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    RATE_LIMITED = "rate_limited"
    TOO_MANY_FAILURES = "too_many_failures"
    TOO_MANY_STREAMS = "too_many_streams"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_UNAVAILABLE = "upstream_unavailable"
    IDENTITY_UNAVAILABLE = "identity_unavailable"
    AT_CAPACITY = "at_capacity"
    DRAINING = "draining"
    INTERNAL_ERROR = "internal_error"

    @property
    def status(self) -> int:
        """The HTTP status that goes with the code."""
        return _STATUS[self]


_STATUS = {
    RefusalCode.UPSTREAM_ENDED: 204,
    RefusalCode.CONFLICTING_CREDENTIALS: 400,
    RefusalCode.BAD_REQUEST: 400,
    RefusalCode.MISSING_CREDENTIAL: 401,
    RefusalCode.INVALID_CREDENTIAL: 401,
    RefusalCode.FORBIDDEN: 403,
    RefusalCode.ORIGIN_NOT_ALLOWED: 403,
    RefusalCode.NOT_FOUND: 404,
    RefusalCode.METHOD_NOT_ALLOWED: 405,
    RefusalCode.RATE_LIMITED: 429,
    RefusalCode.TOO_MANY_FAILURES: 429,
    RefusalCode.TOO_MANY_STREAMS: 429,
    RefusalCode.UPSTREAM_ERROR: 502,
    RefusalCode.UPSTREAM_UNAVAILABLE: 503,
    RefusalCode.IDENTITY_UNAVAILABLE: 503,
    RefusalCode.AT_CAPACITY: 503,
    RefusalCode.DRAINING: 503,
    RefusalCode.INTERNAL_ERROR: 500,
}


class SourceProblem(StrEnum):
    """Why a source didn't open or ended; also the `reason` label of `upstream_reconnects_total`."""

    UNAUTHORIZED = "unauthorized"  # 401: the credential is bad
    FORBIDDEN = "forbidden"  # 403: the credential may not read this stream
    ENDED = "ended"  # 204: the stream is over, for good
    CURSOR_REJECTED = "cursor_rejected"  # another 4xx, and the request carried a cursor
    UNUSABLE = "unusable"  # an answer that is no event stream: 404, redirect elsewhere, HTML
    THROTTLED = "throttled"  # 429
    UNAVAILABLE = "unavailable"  # 5xx, no connection, time-out before headers
    CUT = "cut"  # an open stream ended or broke
    IDLE = "idle"  # an open stream was silent for too long
    REPLACED = "replaced"  # we closed it ourselves to ask again from another cursor


class RelayError(Exception):
    """A failure that a person is told about; `str()` is the whole sentence."""


class ConfigError(RelayError):
    """Settings that can't be used. `mistakes` holds every one, each a sentence with its mend."""

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


class StartError(RelayError):
    """The process can't take up service; the sentence says what to change."""


class Refusal(RelayError):  # noqa: N818 - an answer, and the contract's word for it
    """A request that gets no stream. Carries what the answer needs, never a credential.

    `retry_after_s` goes out as `Retry-After`; `limit` and `remaining` as `RateLimit-*` on 429;
    `allow` is the `Allow` header of a 405.
    """

    def __init__(
        self,
        code: RefusalCode,
        detail: str,
        *,
        retry_after_s: float | None = None,
        limit: int | None = None,
        allow: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.limit = limit
        self.allow = allow


class SourceFailure(RelayError):  # noqa: N818 - it is an outcome of a source, as common as success
    """A source that didn't open or ended. `retry_after_s` is what upstream asked us to wait."""

    def __init__(
        self,
        problem: SourceProblem,
        detail: str,
        *,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.problem = problem
        self.detail = detail
        self.status = status
        self.retry_after_s = retry_after_s
