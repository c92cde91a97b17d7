"""Logs: one line per fact, never a secret, never a wait."""

import io
import json
import logging
import os
import subprocess
import sys
import time
from threading import Thread
from urllib.parse import quote

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

from lebureau_relay import logs

KEY = "lb_k_a1b2c3d4e5f6"


@pytest.fixture
def start():
    """Configures logs onto a stream and puts the process back as it was."""
    root, ours = logging.getLogger(), logging.getLogger("lebureau_relay")
    before = root.level, ours.level
    handlers = []

    def configure(stream, level="info", fmt="json", **options):
        handlers.append(logs.configure(level, fmt, stream, **options))
        return handlers[-1]

    yield configure
    for handler in handlers:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(before[0])
    ours.setLevel(before[1])
    structlog.reset_defaults()


@pytest.fixture
def told(start):
    """Logs what it is given, and returns the lines that came out as records."""

    def say(*calls, **options):
        stream = io.StringIO()
        handler = start(stream, **options)
        for call in calls:
            call(structlog.get_logger("lebureau_relay.test"))
        handler.close()
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    return say


def test_a_line_is_one_json_object_with_when_level_who_and_what(told):
    (line,) = told(lambda log: log.info("stream.closed", reason="slow", age_s=1.5))
    assert line.pop("timestamp").endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": "lebureau_relay.test",
        "event": "stream.closed",
        "reason": "slow",
        "age_s": 1.5,
    }


def test_libraries_speak_through_the_same_door(told):
    (line,) = told(
        lambda _: logging.getLogger("aiohttp.server").info("not of interest"),
        lambda _: logging.getLogger("aiohttp.server").error("Error handling %s", f"/?apiKey={KEY}"),
    )
    assert (line["logger"], line["level"]) == ("aiohttp.server", "error")
    assert line["event"] == "Error handling /?apiKey=***"


def test_what_is_below_the_level_is_not_told(told):
    (line,) = told(lambda log: log.info("no"), lambda log: log.warning("yes"), level="warning")
    assert line["event"] == "yes"


def test_a_traceback_is_part_of_its_line_and_redacted(told):
    def fail(log):
        try:
            raise ValueError(f"bad key {KEY}")
        except ValueError:
            log.exception("oops")

    (line,) = told(fail)
    assert line["exception"].endswith("ValueError: bad key ***")
    assert "Traceback" in line["exception"]


def test_a_second_configuration_replaces_the_first(start):
    first, second = io.StringIO(), io.StringIO()
    start(first)
    handler = start(second)
    structlog.get_logger("lebureau_relay.test").info("here")
    handler.close()
    assert first.getvalue() == ""
    assert json.loads(second.getvalue())["event"] == "here"


class TestConsole:
    def say(self, start, **facts) -> str:
        stream = io.StringIO()
        handler = start(stream, fmt="console")
        structlog.get_logger("lebureau_relay.test").info("said", **facts)
        handler.close()
        return stream.getvalue()

    def test_it_is_for_people_and_without_colours_where_there_is_no_terminal(self, start):
        line = self.say(start, reason="slow")
        assert "said" in line
        assert "reason=slow" in line
        assert "\x1b" not in line

    def test_it_can_not_be_forged_by_what_a_client_sent(self, start):
        line = self.say(start, agent="x\n2026 [info] stream.closed\x1b[2J")
        assert line.count("\n") == 1
        assert "\x1b" not in line

    def test_a_traceback_keeps_its_lines(self, start):
        try:
            raise ValueError("oops")
        except ValueError:
            assert self.say(start, exc_info=True).count("\n") > 3

    def test_auto_is_json_where_there_is_no_terminal(self, start):
        stream = io.StringIO()
        handler = start(stream, fmt="auto")
        structlog.get_logger("lebureau_relay.test").info("said")
        handler.close()
        assert json.loads(stream.getvalue())["event"] == "said"


class TestRedaction:
    @pytest.mark.parametrize(
        ("text", "clean"),
        [
            (f"GET /s?apiKey={KEY}&a=1 HTTP/1.1", "GET /s?apiKey=***&a=1 HTTP/1.1"),
            ("/s?api_key=abc", "/s?api_key=***"),
            ("/s?API-KEY=abc#x", "/s?API-KEY=***"),
            ("/s?api%4Bey=abc&a=1", "/s?api%4Bey=***&a=1"),
            ("next=%2Fs%3FapiKey%3Dabc", "next=%2Fs%3FapiKey%3D***"),
            ("next=%252Fs%253FapiKey%253Dabc x", "next=%252Fs%253FapiKey%253D*** x"),
            ("access_token=abc; other", "access_token=***; other"),
            (f"key {KEY} is bad", "key *** is bad"),
            ("key lb%5Fk%5Fabc", "key ***"),
            ("key %6Cb%255fk_abc", "key ***"),
            ("{'x-api-key': 'abc', 'a': 'b'}", "{'x-api-key': '***', 'a': 'b'}"),
            ("((b'X-Api-Key', b'abc'), (b'a', b'b'))", "((b'X-Api-Key', b'***'), (b'a', b'b'))"),
            ("[('cookie', 'a=b; c=d')]", "[('cookie', '***')]"),
            ("Cookie: a=b; __Host-s=1", "Cookie: ***"),
            ("Authorization: Bearer abc", "Authorization: ***"),
            ("bearer abc.def, x", "bearer ***, x"),
            ("__Secure-session=abc; other=1", "__Secure-session=***; other=1"),
            ("redis://me:abc@r.example:6379/0", "redis://***@r.example:6379/0"),
        ],
    )
    def test_what_looks_like_a_credential_goes(self, text, clean):
        assert logs.redact(text) == clean

    @pytest.mark.parametrize(
        "text",
        [
            "invalid_credential",
            "code=missing_credential status=401",
            "https://lebureau.talentai.fr/api/desktops?a=1",
            "stream.closed reason=credential_revoked age_s=3",
            "the token was refused",
            "a cookie, or a key",
            "me@example.com",
        ],
    )
    def test_what_does_not_stays(self, text):
        assert logs.redact(text) == text

    @given(
        st.text("abcXYZ019-_", min_size=4, max_size=40),
        st.lists(st.booleans(), min_size=64, max_size=64),
        st.integers(0, 2),
        st.text(max_size=20),
    )
    @example("zzzz", [True] * 64, 2, "?apiKey=")
    def test_a_key_goes_however_it_is_spelled(self, secret, escaped, again, around):
        spelled = "".join(
            f"%{ord(char):02X}" if escape else char
            for char, escape in zip(f"lb_k_{secret}", escaped, strict=False)
        )
        for _ in range(again):
            spelled = quote(spelled, safe="")
        assert spelled not in logs.redact(f"{around} {spelled} {around}")

    def test_facts_named_like_secrets_go_whatever_they_hold(self, told):
        (line,) = told(
            lambda log: log.info(
                "x",
                api_key="abc",
                Authorization=["abc"],
                headers={"X-Api-Key": "abc", "Set-Cookie": "abc", "host": "h"},
                pairs=[("a", f"apiKey={KEY}")],
                raw=KEY.encode(),
                deep={"a": {"b": {"c": {"d": {"e": KEY}}}}},
                error=ValueError(KEY),
                none=None,
            )
        )
        text = json.dumps(line)
        assert "abc" not in text
        assert KEY not in text
        assert line["headers"] == {"X-Api-Key": "***", "Set-Cookie": "***", "host": "h"}
        assert line["none"] is None

    def test_names_from_the_settings_count_too(self, told):
        (line,) = told(lambda log: log.info("x", x_desk_pass="abc"), secret_names=["X-Desk-Pass"])
        assert line["x_desk_pass"] == "***"

    def test_a_long_text_costs_little(self):
        text = "lb%5 __host-a api%4B " * 5000  # 100 KB of nearly
        began = time.perf_counter()
        assert logs.redact(text)
        assert time.perf_counter() - began < 5


def drained(descriptor: int) -> tuple[bytearray, Thread]:
    """What comes out of a pipe from now on, and the thread that reads it to its end."""
    received = bytearray()

    def drain():
        while chunk := os.read(descriptor, 1 << 16):
            received.extend(chunk)

    reader = Thread(target=drain)
    reader.start()
    return received, reader


class TestStuckStream:
    """A pipe whose reader has stopped reading."""

    @pytest.fixture
    def pipe(self):
        read, write = os.pipe()
        stream = os.fdopen(write, "w")
        yield read, stream
        os.close(read)
        stream.close()

    def test_it_makes_nobody_wait_and_the_loss_is_told(self, start, pipe):
        read, stream = pipe
        handler = start(stream)
        log = structlog.get_logger("lebureau_relay.test")
        began = time.monotonic()
        while not handler.dropped:
            log.info("fill", filler="x" * 100)
        assert time.monotonic() - began < 30

        received, reader = drained(read)
        lost = -1
        while lost != handler.dropped:  # until one finds room
            lost = handler.dropped
            log.info("after")
        handler.close()
        stream.close()
        reader.join(10)
        lines = [json.loads(line) for line in received.splitlines()]
        assert [line["event"] for line in lines[-2:]] == ["log.dropped", "after"]
        assert sum(line.get("lines", 0) for line in lines) == lost

    def test_a_loss_at_the_very_end_is_told_too(self, start, pipe):
        read, stream = pipe
        handler = start(stream)
        while not handler.dropped:
            structlog.get_logger("lebureau_relay.test").info("fill", filler="x" * 100)
        received, reader = drained(read)
        handler.close()
        stream.close()
        reader.join(10)
        assert json.loads(received.splitlines()[-1])["lines"] == handler.dropped

    def test_it_does_not_keep_the_process_from_ending(self):
        program = (
            "import structlog; from lebureau_relay import logs\n"
            "logs.configure('info', 'json')\n"
            "for _ in range(5000): structlog.get_logger('lebureau_relay').info('x' * 100)\n"
        )
        with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) as process:
            assert process.wait(timeout=20) == 0

    def test_a_reader_that_has_gone_costs_lines_and_nothing_else(self, start):
        read, write = os.pipe()
        os.close(read)
        with os.fdopen(write, "w") as stream:
            handler = start(stream)
            structlog.get_logger("lebureau_relay.test").info("x")
            handler.close()
            assert handler.dropped == 1

    def test_a_non_blocking_one_gets_every_line_whole(self, start, pipe):
        read, stream = pipe
        os.set_blocking(stream.fileno(), False)
        handler = start(stream)
        log = structlog.get_logger("lebureau_relay.test")
        for _ in range(100):
            log.info("x" * 2000)
        received = bytearray()
        while received.count(b"\n") < 100:
            received.extend(os.read(read, 1 << 16))
        assert all(json.loads(line) for line in received.splitlines())
        assert handler.dropped == 0


def test_a_fact_that_can_not_be_shown_is_counted_not_raised(told, start):
    class Odd:
        def __str__(self):
            raise RuntimeError

    stream = io.StringIO()
    handler = start(stream)
    structlog.get_logger("lebureau_relay.test").info("x", odd=Odd())
    assert handler.dropped == 1
