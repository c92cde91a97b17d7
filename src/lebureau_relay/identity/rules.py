"""What the register is told by the settings, as one frozen record that stands beside its user."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AuthRules:
    """The settings that say how upstream is asked about a credential (contract, section 2).

    Paths are appended to `base_url`; an empty `identity_path` makes the credential its own
    identity. With neither it nor `probe_path`, `stream_path` is asked and closed after its headers.
    `max_stale_s` 0 lets live streams outlast any outage.
    """

    base_url: str
    api_key_header: str = "x-api-key"
    probe_path: str = "/api/desktops"
    identity_path: str = ""
    identity_fields: tuple[str, ...] = ("id", "capabilities")
    recheck_interval_s: float = 60.0
    max_stale_s: float = 0.0
    upstream_auth_failures_per_minute: int = 8
    stream_path: str = "/api/desktops/stream"

    @property
    def asked_path(self) -> str:
        """The path that tells whether a credential is good."""
        return self.identity_path or self.probe_path or self.stream_path

    @property
    def url(self) -> str:
        """Where to ask."""
        return self.base_url.rstrip("/") + self.asked_path
