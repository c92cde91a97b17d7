"""How a credential travels upstream: the one place where a secret becomes a header.

It stands apart because two rooms that may not know each other, the source of events and the
register of credentials, must send it alike: what one of them proved good is what the other one
uses.
"""

from lebureau_relay.core.credential import Credential, CredentialKind


def request_headers(credential: Credential, api_key_header: str) -> dict[str, str]:
    """The header that carries a credential, and nothing else.

    A key goes out in `api_key_header`, as a bearer token if that is `Authorization` (RFC 6750,
    section 2.1); cookies go out as they came in. The caller keeps the result out of logs and
    exceptions.
    """
    if credential.kind is CredentialKind.COOKIE:
        return {"Cookie": credential.reveal()}
    if api_key_header.lower() == "authorization":
        return {"Authorization": f"Bearer {credential.reveal()}"}
    return {api_key_header: credential.reveal()}
