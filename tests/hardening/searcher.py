"""A searcher for secrets in whatever a system says of itself, in any spelling that is no cipher.

It reads text as it came, and again with what may be quoted unquoted, in any case; and it looks for
the secret, backwards too, for its usual encodings, and for its hashes without a key.
"""

import base64
import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

# So much of any form is a finding: an echo may be cut short, or masked in its middle.
_PIECE = 12
_HASHES = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "sha3_256", "blake2b", "blake2s")
_ESCAPE = re.compile(rb"\\(?:x|u00)([0-9a-fA-F]{2})")
# Secrets are letters and digits, so none of their forms reaches over one of these.
_WORD = re.compile(rb"[^\s\"',;:&?(){}\[\]<>]{12,}")


class Finding(NamedTuple):
    """A secret by its name, the form in which it stood there, and the word that held it."""

    place: str
    name: str
    form: str
    word: bytes


class Searcher:
    """Knows secrets by name, each of 16 letters or digits at least."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._folded: dict[bytes, tuple[str, str]] = {}  # looked for in any case
        self._exact: dict[bytes, tuple[str, str]] = {}
        for name, secret in secrets.items():
            assert len(secret) >= 16, name
            for form, needle in _folded_forms(secret.encode()):
                self._folded[needle[:_PIECE].lower()] = (name, form)
            for form, needle in _exact_forms(secret.encode()):
                self._exact[needle[:_PIECE]] = (name, form)

    def found(self, place: str, text: bytes) -> list[Finding]:
        """Every secret in this text, each form once."""
        findings: dict[tuple[str, str], Finding] = {}
        for word in {word for reading in _readings(text) for word in _WORD.findall(reading)}:
            lower = word.lower()
            for at in range(len(word) - _PIECE + 1):
                hit = self._folded.get(lower[at : at + _PIECE])
                hit = hit or self._exact.get(word[at : at + _PIECE])
                if hit is not None:
                    findings[hit] = Finding(place, *hit, word[:200])
        return list(findings.values())

    def assert_clean(self, texts: Iterable[tuple[str, bytes]]) -> None:
        """Fails with every finding in these places."""
        findings = [finding for place, text in texts for finding in self.found(place, text)]
        assert not findings, "\n".join(map(str, findings))


def _readings(text: bytes) -> Iterator[bytes]:
    """The text as it came, and what it says to who unquotes: percent and string escapes."""
    yield text
    for _ in range(3):
        plain = unquote_to_bytes(_ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), text))
        if plain == text:
            break
        text = plain
        yield text


def _folded_forms(secret: bytes) -> Iterator[tuple[str, bytes]]:
    for start in {0, (len(secret) - _PIECE) // 2, len(secret) - _PIECE}:
        yield "plain", secret[start:]
        yield "reversed", secret[start : start + _PIECE][::-1]
        yield "hex", secret[start:].hex().encode()
    yield "base32", base64.b32encode(secret)
    yield "rot13", secret.translate(_ROT13)
    for name in _HASHES:
        yield name, hashlib.new(name, secret).hexdigest().encode()
    yield "blake2b-128", hashlib.blake2b(secret, digest_size=16).hexdigest().encode()
    yield "checksums", b"%08x%08x" % (zlib.crc32(secret), zlib.adler32(secret))


def _exact_forms(secret: bytes) -> Iterator[tuple[str, bytes]]:
    """What is told by case: base64 of the secret at any place of a longer text, and of hashes."""
    for shift in range(3):
        # The first group holds what stood before the secret, which is unknown.
        whole = base64.b64encode(b"\0" * shift + secret)[4 if shift else 0 :]
        yield f"base64 at {shift}", whole
        yield f"base64url at {shift}", whole.translate(_URLSAFE)
    for name in _HASHES:
        yield f"{name} in base64", base64.b64encode(hashlib.new(name, secret).digest())


_URLSAFE = bytes.maketrans(b"+/", b"-_")
_UPPER, _LOWER = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"abcdefghijklmnopqrstuvwxyz"
_ROT13 = bytes.maketrans(_UPPER + _LOWER, _UPPER[13:] + _UPPER[:13] + _LOWER[13:] + _LOWER[:13])
