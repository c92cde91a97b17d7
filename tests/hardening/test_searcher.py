"""The control of the leak tests: the searcher finds what was put there, and nothing else."""

import base64
import codecs
import hashlib
import json
from urllib.parse import quote

import pytest
from tests.hardening.places import admin_places, canary, places
from tests.hardening.searcher import Searcher

SECRET = "QzKwPtVbXsRnMdLgHjFc"


def percent(text: str, form: str = "%{:02x}") -> str:
    return "".join(form.format(ord(char)) for char in text)


@pytest.mark.parametrize(
    "spelled",
    [
        SECRET,
        SECRET.lower(),
        SECRET.upper(),
        SECRET.swapcase(),
        SECRET[::-1],
        SECRET[:12],
        SECRET[4:16],
        SECRET[-12:],
        percent(SECRET),
        percent(SECRET, "%{:02X}"),
        quote(percent(SECRET)),
        quote(quote(percent(SECRET))),
        SECRET[:5] + percent(SECRET[5:]),
        percent(SECRET, "\\x{:02x}"),
        percent(SECRET, "\\u00{:02X}"),
        SECRET.encode().hex(),
        SECRET.encode().hex().upper(),
        codecs.encode(SECRET, "rot13"),
        base64.b32encode(SECRET.encode()).decode(),
        *(base64.b64encode(f"{'x' * n}{SECRET}".encode()).decode() for n in range(7)),
        *(base64.b64encode(f"{'x' * n}{SECRET}:y".encode()).decode() for n in range(7)),
        base64.urlsafe_b64encode(f"user:{SECRET}".encode()).decode(),
        hashlib.md5(SECRET.encode()).hexdigest(),
        hashlib.sha256(SECRET.encode()).hexdigest().upper(),
        hashlib.blake2b(SECRET.encode(), digest_size=16).hexdigest(),
        base64.b64encode(hashlib.sha256(SECRET.encode()).digest()).decode(),
    ],
)
@pytest.mark.parametrize(
    "around", ["{}", '{{"detail": "no {} here"}}', "GET /?apiKey={}&a=1", "x{}x"]
)
def test_a_secret_is_found_in_any_spelling(spelled, around):
    found = Searcher({"it": SECRET}).found("here", around.format(spelled).encode())
    assert {finding.name for finding in found} == {"it"}


def test_nothing_is_found_where_nothing_is():
    text = json.dumps({"identity": hashlib.sha256(b"another").hexdigest(), "a": SECRET[:11]})
    assert Searcher({"it": SECRET}).found("here", text.encode()) == []


def test_every_place_holds_its_canary_and_no_other():
    made = {**places(), **admin_places()}
    assert len(made) > 150
    secrets = {name: secret for name, (secret, _) in made.items()}
    assert len(set(secrets.values())) == len(made)
    searcher = Searcher(secrets)
    for name, (_, request) in made.items():
        assert {found.name for found in searcher.found(name, request)} == {name}


def test_canaries_are_all_different_and_of_letters():
    made = {canary() for _ in range(1000)}
    assert len(made) == 1000
    assert all(each.isalpha() for each in made)
