"""A credential: the secret that proves who a client is, as a type that can't be printed.

It stands apart because everything else in the relay may be logged. It is held only in memory,
compares in constant time by a digest keyed for this process, and refuses to be pickled or
formatted.
"""

import hashlib
import secrets
from enum import StrEnum
from hmac import compare_digest
from typing import Final, NoReturn
from urllib.parse import unquote

_PROCESS_KEY: Final = secrets.token_bytes(32)
# Shorter than any session's or key's; a cookie may hold a word, which honest texts hold too.
_MIN_PIECE: Final = 16


class CredentialKind(StrEnum):
    """How a credential travels."""

    KEY = "key"
    COOKIE = "cookie"


class Credential:
    """An API key, or the session cookies of a browser as one `Cookie` header value.

    `reveal()` is the only way to the secret and is called where a request to upstream is made,
    nowhere else. `client` is the address that brought it, where upstream is told; it is no part of
    what makes two credentials one.
    """

    __slots__ = ("_secret", "client", "digest", "kind")

    def __init__(self, kind: CredentialKind, secret: str, client: str = "") -> None:
        self.kind = kind
        self.client = client
        self._secret = secret
        # "surrogatepass" takes every text: an encoding error would carry the secret.
        text = f"{kind.value}:{secret}".encode("utf-8", "surrogatepass")
        self.digest = hashlib.blake2b(text, key=_PROCESS_KEY, digest_size=16).digest()

    def reveal(self) -> str:
        """The secret itself, for the one header that carries it upstream."""
        return self._secret

    def stands_in(self, text: str) -> bool:
        """Whether the text holds the secret, or the value of one of the cookies, as it is or
        percent-encoded.
        """
        plain = unquote(text)
        pieces = [self._secret]
        if self.kind is CredentialKind.COOKIE:
            pieces = [pair.partition("=")[2] for pair in self._secret.split("; ")]
        return any(piece in text or piece in plain for piece in pieces if len(piece) >= _MIN_PIECE)

    def keyed(self, key: bytes) -> str:
        """A name for this credential that all who share `key` compute alike: 32 hex digits."""
        text = f"{self.kind.value}:{self._secret}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, key=key, digest_size=16).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Credential) and compare_digest(self.digest, other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"<Credential {self.kind.value}>"

    def __reduce__(self) -> NoReturn:
        message = "a credential stays in memory: it can't be pickled or copied"
        raise TypeError(message)
