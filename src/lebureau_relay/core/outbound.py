"""How a credential travels upstream: the one place where a secret becomes a header.

It stands apart because two rooms that may not know each other, the source of events and the
register of credentials, must send it alike: what one of them proved good is what the other one
uses. With a few fixed fields of each room and `Last-Event-ID`, this is all that goes upstream: what
a client's head holds otherwise ends at the edge (docs/decisions/0008).
"""

from lebureau_relay.core.credential import Credential, CredentialKind


def request_headers(credential: Credential, api_key_header: str) -> dict[str, str]:
    """The header that carries a credential, and for whom the relay asks, if that is told.

    A key goes out in `api_key_header`, as a bearer token if that is `Authorization` (RFC 6750,
    section 2.1); cookies go out as they came in. The caller keeps the result out of logs and
    exceptions.
    """
    headers = {"X-Forwarded-For": credential.client} if credential.client else {}
    if credential.kind is CredentialKind.COOKIE:
        return headers | {"Cookie": credential.reveal()}
    if api_key_header.lower() == "authorization":
        return headers | {"Authorization": f"Bearer {credential.reveal()}"}
    return headers | {api_key_header: credential.reveal()}
