"""What `redis.url` may say, and what is said of one that can't be read."""

import pytest

from lebureau_relay.broker.redis import connect

SECRET = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://r.example:6379/3",
        "rediss://me:hunter2@[::1]:6380/0?ssl_ca_certs=/x.pem",
        "redis+sentinel://a.example,b.example:26380/service",
        "redis+sentinel://:hunter2@[::1]:26379,[::2]/service/2?sentinel_password=x&tls=true",
        "redis+cluster://me:hunter2@a.example:7000,b.example:7001",
        "redis+cluster://a.example?tls=true&ssl_ca_certs=/x.pem",
    ],
)
async def test_a_good_one_connects_later(url):
    await connect(url).close()


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2/x@r.example",  # not percent-encoded: the rest would be taken for a port
        "redis://:hunter2@r.example:port",
        "redis://r.example?hunter2=1",
        "redis://r.example/hunter2",
        "rediss://r.example?ssl_cert_reqs=hunter2",
        "redis+sentinel://:hunter2@r.example:26379",  # which service?
        "redis+cluster://:hunter2@r.example/3",
        "redis+sentinel://:hunter2/x@r.example/service",
        "redis+sentinel://r.example:hunter2/service",
        "redis+sentinel://r.example/service/hunter2",
        "redis+cluster://:hunter2/x@r.example",
        "redis+cluster://r.example:hunter2",
    ],
)
def test_a_bad_one_is_refused_without_being_repeated(url):
    with pytest.raises(ValueError, match=r"^redis\.url: can't be read; ") as caught:
        connect(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("scheme", ["http", "redis+tls", "", "REDIS"])
def test_another_scheme_is_refused_with_those_there_are(scheme):
    with pytest.raises(ValueError, match=r"redis\+sentinel, redis\+cluster$"):
        connect(f"{scheme}://r.example")
