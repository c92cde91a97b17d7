"""A credential gets nowhere: whatever a program does to print, copy or store it."""

import copy
import io
import json
import logging
import pickle
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lebureau_relay.core.credential import Credential, CredentialKind

SECRET = "lb_k_5ecre7"
KEY = Credential(CredentialKind.KEY, SECRET)
COOKIE = Credential(CredentialKind.COOKIE, f"__Host-session={SECRET}")

PRINTERS = [
    repr, str, ascii, format, "{}".format, "{!r:>80}".format, "%s".__mod__, "%r".__mod__,
    lambda it: f"{it}", lambda it: f"{it!r}", lambda it: f"{[it]} {(it,)} {({it: it})} {({it})}",
    lambda it: repr(vars(type(it))), lambda it: repr(KeyError(it)), lambda it: str(ValueError(it)),
    lambda it: str(AssertionError(it, it)), lambda it: repr(dir(it)), lambda it: repr(it.digest),
    lambda it: it.keyed(b"k"), lambda it: str(hash(it)),
]  # fmt: skip


@pytest.mark.parametrize("credential", [KEY, COOKIE])
@pytest.mark.parametrize("print_it", PRINTERS)
def test_no_way_to_print_it_shows_the_secret(credential, print_it):
    assert SECRET not in print_it(credential)


def use_badly(credential):
    {}[credential]


BAD_USES = [
    pickle.dumps, copy.copy, copy.deepcopy, json.dumps, use_badly,
    lambda it: pickle.Pickler(io.BytesIO(), 0).dump([it]), lambda it: copy.deepcopy({"a": [it]}),
    lambda it: it + "", lambda it: it < KEY, lambda it: it.nothing, int, vars, bytes, len, sorted,
    lambda it: format(it, ">80"), lambda it: it.keyed(None), lambda it: it.keyed(b"k" * 65),
    lambda it: setattr(it, "name", 1),
]  # fmt: skip


@pytest.mark.parametrize("credential", [KEY, COOKIE])
@pytest.mark.parametrize("use", BAD_USES)
def test_what_fails_on_it_shows_no_secret_either(credential, use):
    with pytest.raises((TypeError, KeyError, AttributeError, ValueError)) as caught:
        use(credential)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert SECRET not in shown


def test_a_log_line_shows_its_kind_alone(caplog):
    logging.getLogger("test").warning("rejected %s %r", KEY, {"credential": COOKIE})
    assert caplog.messages == ["rejected <Credential key> {'credential': <Credential cookie>}"]


def test_only_reveal_gives_it():
    assert KEY.reveal() == SECRET
    assert COOKIE.reveal() == f"__Host-session={SECRET}"


def test_equal_means_the_same_kind_and_secret():
    assert Credential(CredentialKind.KEY, SECRET) == KEY
    assert hash(Credential(CredentialKind.KEY, SECRET)) == hash(KEY)
    assert {KEY: 1}[Credential(CredentialKind.KEY, SECRET)] == 1
    assert Credential(CredentialKind.COOKIE, SECRET) != KEY
    assert Credential(CredentialKind.KEY, SECRET + "x") != KEY
    assert SECRET != KEY
    assert KEY.digest != KEY


def test_equality_takes_as_long_for_a_near_miss_as_for_a_far_one(monkeypatch):
    """By the constant-time comparison of digests, never by one of secrets."""
    compared = []

    def compare(a, b):
        compared.append((a, b))
        return a == b

    monkeypatch.setattr("lebureau_relay.core.credential.compare_digest", compare)
    others = [Credential(CredentialKind.KEY, text) for text in (SECRET, SECRET[:-1] + "8", "x")]
    assert [other == KEY for other in others] == [True, False, False]
    assert compared == [(other.digest, KEY.digest) for other in others]
    assert {len(digest) for pair in compared for digest in pair} == {16}


def test_a_keyed_name_is_the_same_for_all_who_share_the_key():
    """Pinned: replicas of different versions must agree on it."""
    assert KEY.keyed(b"shared") == Credential(CredentialKind.KEY, SECRET).keyed(b"shared")
    assert KEY.keyed(b"shared") == "73e075cd21e113907d2acc2c0e460c5f"
    names = {KEY.keyed(b"shared"), KEY.keyed(b"other"), COOKIE.keyed(b"shared"), KEY.digest.hex()}
    assert len(names) == 4


ANYTHING = st.text(st.characters(exclude_categories=()))


@settings(deadline=None, max_examples=100)
@given(ANYTHING, ANYTHING)
def test_any_text_is_a_credential_and_only_equal_texts_are_equal(one, other):
    """Also what is no text at all, as header bytes come in: lone surrogates."""
    a, b = (Credential(CredentialKind.KEY, text) for text in (one, other))
    assert (a == b) == (one == other)
    assert (a.keyed(b"k") == b.keyed(b"k")) == (one == other)


def test_a_secret_that_is_no_text_is_in_no_exception():
    odd = Credential(CredentialKind.KEY, SECRET + "\ud800\udcff")
    assert odd.reveal().startswith(SECRET)


@pytest.mark.parametrize(
    ("kind", "secret", "text", "expected"),
    [
        (CredentialKind.KEY, "lb_k_0123456789ab", "/x?apiKey=lb_k_0123456789ab", True),
        (CredentialKind.KEY, "lb_k_0123456789ab", "/x?apiKey=lb%5Fk%5f0123456789ab", True),
        (CredentialKind.KEY, "lb_k_0123456789ab", "/x?apiKey=lb_k_other", False),
        (CredentialKind.KEY, "a%410123456789abc", "/a%410123456789abc", True),
        (CredentialKind.KEY, "stream", "/api/desktops/stream", False),
        (CredentialKind.COOKIE, "__Host-a=0123456789abcdef; __Host-b=1", "/0123456789abcdef", True),
        (
            CredentialKind.COOKIE,
            "__Host-a=0123456789abcdef; __Host-b=desktops",
            "/api/desktops",
            False,
        ),
    ],
)
def test_it_is_found_in_a_text(kind, secret, text, expected):
    assert Credential(kind, secret).stands_in(text) is expected
