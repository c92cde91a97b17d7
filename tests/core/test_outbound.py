import pytest

from lebureau_relay.core.credential import Credential, CredentialKind
from lebureau_relay.core.outbound import request_headers


@pytest.mark.parametrize("header", ["x-api-key", "X-Token"])
def test_a_key_travels_in_its_header(header):
    key = Credential(CredentialKind.KEY, "lb_k_1")
    assert request_headers(key, header) == {header: "lb_k_1"}


@pytest.mark.parametrize("header", ["Authorization", "authorization"])
def test_a_key_in_authorization_is_a_bearer_token(header):
    key = Credential(CredentialKind.KEY, "lb_k_1")
    assert request_headers(key, header) == {"Authorization": "Bearer lb_k_1"}


@pytest.mark.parametrize("header", ["x-api-key", "Authorization"])
def test_cookies_travel_as_they_came(header):
    cookie = Credential(CredentialKind.COOKIE, "__Host-a=1; __Secure-b=2")
    assert request_headers(cookie, header) == {"Cookie": "__Host-a=1; __Secure-b=2"}


def test_upstream_is_told_who_brought_it():
    key = Credential(CredentialKind.KEY, "lb_k_1", "203.0.113.7")
    expected = {"x-api-key": "lb_k_1", "X-Forwarded-For": "203.0.113.7"}
    assert request_headers(key, "x-api-key") == expected
    assert key == Credential(CredentialKind.KEY, "lb_k_1")
