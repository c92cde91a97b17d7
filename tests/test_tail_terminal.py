"""`tail` on a real terminal: what stands on the screen, at every moment and when it has gone."""

import asyncio
import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
import unicodedata
from collections.abc import AsyncIterator, Callable

import pytest

from lebureau_relay.simulator import Simulator, SimulatorOptions, Stream
from lebureau_relay.tail.cells import cut, pad, width

# All that `tail` may say to a terminal beside text: colours, and "clear to the end of the line".
ORDERS = re.compile(r"\x1b\[(?:[0-9]+m|K)|\r\n|\r")

UNFINISHED = re.compile(r"\r?(?:\x1b(?:\[[0-9]*)?)?\Z")  # an order that is still on its way


def cells(text: str) -> int:
    """As the terminals count that this was looked at in; not the code's own table."""
    return sum(
        0 if unicodedata.combining(each) else 1 + (unicodedata.east_asian_width(each) in "WF")
        for each in text
    )


def on_screen(said: str, columns: int) -> list[str]:
    """The lines that a terminal shows, each checked to fit."""
    lines, at = [""], 0
    while at < len(said):
        order = ORDERS.match(said, at)
        if order is None:
            assert said[at].isprintable(), f"{said[at]!r} reached the terminal"
            lines[-1] += said[at]
            at += 1
            assert cells(lines[-1].rpartition("\r")[2]) <= columns, lines[-1]
            continue
        at = order.end()
        if order.group() == "\r\n":
            lines[-1] = lines[-1].rpartition("\r")[2]
            lines.append("")
        elif order.group() == "\r":
            lines[-1] += "\r"  # what follows is written over the line, which must be cleared first
        elif order.group() == "\x1b[K":
            assert lines[-1].endswith("\r")
            lines[-1] = ""
    assert "\r" not in "".join(lines)
    return lines


class Terminal:
    """A `tail` with a terminal of its own."""

    def __init__(self, columns: int) -> None:
        self.leader, self.follower = os.openpty()
        self.columns = columns
        self.resize(columns)
        self.before = termios.tcgetattr(self.follower)
        self.bytes = b""
        self.process: subprocess.Popen[bytes]

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.leader, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def start(self, url: str, *options: str, **environment: str) -> None:
        drop = {"NO_COLOR", "COLUMNS", "LINES", "TERM"}
        mine = {name: value for name, value in os.environ.items() if name not in drop}
        # Not the loop's own call, which has no terminal yet where `preexec_fn` runs.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lebureau_relay", "tail", url, *options],
            env={**mine, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **environment},
            stdin=self.follower,
            stdout=self.follower,
            stderr=self.follower,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
        )
        asyncio.get_running_loop().add_reader(self.leader, self._read)

    def _read(self) -> None:
        self.bytes += os.read(self.leader, 65536)

    @property
    def said(self) -> str:
        return self.bytes.decode("utf-8", "ignore")

    @property
    def screen(self) -> list[str]:
        return on_screen(UNFINISHED.sub("", self.said), self.columns)

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not true():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def shows(self, words: str) -> None:
        await self.until(lambda: words in self.said)

    def press(self, key: bytes) -> None:
        os.write(self.leader, key)

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait, 20)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.leader)
        self.process.kill()
        self.process.wait()
        os.close(self.leader)
        os.close(self.follower)


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    simulator = Simulator(SimulatorOptions(users=1, rate=0))
    await simulator.start()
    yield simulator
    await simulator.stop()


@pytest.fixture
async def open_terminal(simulator: Simulator):
    """Starts `tail` on the desktops' stream, and waits until it is connected."""
    opened: list[Terminal] = []

    async def start(*options: str, columns: int = 100, key: str = "", **environment) -> Terminal:
        terminal = Terminal(columns)
        opened.append(terminal)
        environment["LEBUREAU_API_KEY"] = key or simulator.user().key
        terminal.start(simulator.url + Stream.DESKTOPS.path, *options, **environment)
        if not key:
            await simulator.until(lambda: simulator.subscriptions_total == 1, timeout_s=20)
        return terminal

    yield start
    for terminal in opened:
        terminal.close()


def emit(simulator: Simulator, kind: str = "desktop.error", payload=None, **facts) -> None:
    payload = {"name": "ventes"} if payload is None else payload
    simulator.emit_event(simulator.user().id, Stream.DESKTOPS, kind, payload, **facts)


async def test_events_scroll_above_a_status_line(simulator, open_terminal) -> None:
    terminal = await open_terminal()
    await terminal.shows("connected · 0.0 events/s · 0 events")
    for n in range(3):
        emit(simulator, payload={"name": f"ventes-{n}"})
        await terminal.shows(f"ventes-{n}")
    await terminal.shows("3 events")
    assert "\x1b[31mdesktop.error" in terminal.said
    assert "\x1b[32m●\x1b[0m connected" in terminal.said
    *lines, status = terminal.screen
    assert [line.rpartition("  ")[2] for line in lines[-3:]] == ["ventes-0", "ventes-1", "ventes-2"]
    assert re.fullmatch(r"● connected · 0\.\d events/s · 3 events|● .* · 3 events", status)
    assert sum("events/s" in line for line in terminal.screen) == 1


async def test_ctrl_c_leaves_the_terminal_as_it_was(simulator, open_terminal) -> None:
    terminal = await open_terminal()
    emit(simulator)
    await terminal.shows("1 event")
    terminal.press(b"\x03")
    assert await terminal.ended() == 0
    await terminal.shows("stopped")
    await terminal.until(lambda: terminal.said.endswith("\n"))
    *lines, rest = terminal.screen
    assert rest == ""
    assert lines[-1].endswith("  stopped")
    assert not any("events/s" in line or "^C" in line for line in lines)
    assert "Traceback" not in terminal.said
    assert termios.tcgetattr(terminal.follower) == terminal.before


async def test_a_final_answer_stands_alone(open_terminal) -> None:
    terminal = await open_terminal(key="lb_k_wrong")
    assert await terminal.ended() == 1
    await terminal.shows("set LEBUREAU_API_KEY (401")
    await terminal.until(lambda: terminal.said.endswith("\n"))
    assert not any("connecting" in line for line in terminal.screen)
    assert "lb_k_wrong" not in terminal.said


async def test_what_goes_wrong_is_seen_in_the_status_line(simulator, open_terminal) -> None:
    terminal = await open_terminal()
    await terminal.shows("connected ·")
    await simulator.stop()
    await terminal.shows("◌")
    await terminal.shows("trying again in")
    await terminal.shows("nothing listens at 127.0.0.1")
    assert re.search(r"◌\x1b\[0m trying again in \d+ s · 0 events", terminal.said)


async def test_without_colour_there_is_none(simulator, open_terminal) -> None:
    terminal = await open_terminal(NO_COLOR="1")
    emit(simulator)
    await terminal.shows("1 event")
    assert not re.search(r"\x1b\[[0-9]", terminal.said)
    assert "● connected" in terminal.said


async def test_a_dumb_terminal_gets_text(simulator, open_terminal) -> None:
    terminal = await open_terminal(TERM="dumb")
    emit(simulator)
    await terminal.shows("ventes")
    assert "\x1b" not in terminal.said
    assert "events/s" not in terminal.said


@pytest.mark.parametrize("columns", [12, 24, 50, 80])
async def test_a_line_never_wraps(simulator, open_terminal, columns) -> None:
    terminal = await open_terminal(columns=columns)
    terminal.columns = max(columns, 400)  # words about the connection may
    for name in ("x" * 500, "桌面" * 100, "e\u0301" * 200, "🖥" * 90, "ｗ" * 90):
        emit(simulator, "desktop.very-long-type-name", {"name": name, "n": 1})
    await terminal.until(lambda: terminal.said.count("\n") == 6)  # and that it is connected
    await terminal.until(lambda: "●" in terminal.screen[-1])
    events = [line for line in terminal.screen if "connected to" not in line]
    assert all(cells(line) <= columns for line in events), events
    assert sum(line.endswith("…") and cells(line) >= columns - 1 for line in events) >= 5


async def test_a_window_that_is_resized_is_looked_at_again(simulator, open_terminal) -> None:
    terminal = await open_terminal(columns=120)
    emit(simulator, payload={"name": "x" * 300})
    await terminal.shows("x…")
    terminal.resize(60)
    emit(simulator, payload={"name": "y" * 300})
    await terminal.shows("y…")
    widths = {line[-2]: cells(line) for line in terminal.screen if line.endswith("…")}
    assert widths == {"x": 120, "y": 60}


HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b31m\x1bP\x00\x08\r\n\x7f\u202e\u2066\u200b\ufeffend"


@pytest.mark.parametrize("options", [(), ("--json",)])
async def test_nothing_that_strangers_send_is_an_order(simulator, open_terminal, options) -> None:
    terminal = await open_terminal(*options)
    terminal.columns = 2000
    kind = HOSTILE.replace("\r\n", "").replace("\x00", "")
    emit(simulator, kind, {"name": HOSTILE, HOSTILE: [HOSTILE]}, event_id="\x1b[2J\u009b1m")
    emit(simulator, payload={"name": "after"})
    await terminal.shows("after")
    assert terminal.screen, "every byte was text or one of the few orders"
    assert "\x07" not in terminal.said
    assert "\x9b" not in terminal.said


def test_widths() -> None:
    assert width("abc") == 3
    assert width("桌面") == 4
    assert width("e\u0301") == 1
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "ab…"
    assert cut("桌面桌", 4) == "桌…"
    assert cut("桌面桌", 5) == "桌面…"
    assert cut("ab", 1) == "…"
    assert cut("ab", 0) == cut("ab", -3) == ""
    assert pad("桌", 4) == "桌  "
