"""The programs of docs/clients.md as they stand there, against a relay that lets them down in every
way that the guide speaks of.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from aiohttp import web
from tests.e2e.clients import eventually
from tests.e2e.conftest import pages
from tests.node.packages import node_modules

GUIDE = Path(__file__).parents[2] / "docs" / "clients.md"
_PROGRAM = re.compile(r"<!-- program: (\S+) -->\n```\w+\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PROGRAMS: dict[str, str] = dict(_PROGRAM.findall(GUIDE.read_text(encoding="utf-8")))
SCRIPTS = [name for name in PROGRAMS if not name.endswith(".html")]
PAGES = [name for name in PROGRAMS if name.endswith(".html")]


# Eight programs behind one address, all of whose keys are revoked at once.
LENIENT = {
    "limits": {"failed_auth_per_minute": 1000, "upstream_auth_failures_per_minute": 1000},
    "replay": {"max_bytes": 4_000_000},
    "stream": {"buffer_bytes": 2_000_000},
}


def find_go() -> str | None:
    return shutil.which("go", path=os.environ.get("PATH", "") + ":/usr/local/go/bin")


def go_environment() -> dict[str, str]:
    """Nothing is downloaded. What Go has compiled it keeps in the user's cache: net/http and what
    it stands on take a minute.
    """
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": os.environ["HOME"],
        "GOFLAGS": "-mod=mod",
        "GOPROXY": "off",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
    }


def command(name: str, folder: Path) -> list[str]:
    """How a user would start a program that lies in a folder."""
    script = folder / name
    match script.suffix:
        case ".py":
            return [sys.executable, name]
        case ".sh":
            return ["bash", name]
        case ".mjs":
            node = shutil.which("node")
            assert node is not None
            if "'eventsource'" in PROGRAMS[name]:
                (folder / "node_modules").symlink_to(node_modules())
            return [node, name]
        case ".go":
            go = find_go()
            if go is None:
                pytest.skip("Go is not installed; its program is not tried")
            (folder / "go.mod").write_text("module desktops\n\ngo 1.21\n")
            env = go_environment()
            for order in ([go, "vet", "."], [go, "build", "-o", "desktops", "."]):
                subprocess.run(order, cwd=folder, env=env, check=True)
            gofmt = [str(Path(go).parent / "gofmt"), "-l", name]
            assert subprocess.check_output(gofmt, cwd=folder, text=True) == ""
            return ["./desktops"]
    raise AssertionError(f"nobody knows how to run {name}")


class Crossing:
    """The way from one program to the relay: it breaks in the middle of an event when told to, and
    remembers who came with which cursor, when, and was answered what.
    """

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._tasks: set[asyncio.Task[None]] = set()
        self.asked: list[tuple[float, bytes]] = []
        self.answered: list[tuple[int, float]] = []  # status, Retry-After
        self.breaks = False

    async def start(self) -> "Crossing":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def end(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, here: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there = None
        try:
            answers, there = await asyncio.open_connection("127.0.0.1", self._to_port)
            up = asyncio.ensure_future(self._pass_up(reader, there))
            await self._pass_down(answers, here)
            up.cancel()
        except (OSError, asyncio.CancelledError):
            here.transport.abort()
        finally:
            if there is not None:
                there.transport.abort()
            here.close()
            self._tasks.discard(task)

    async def _pass_up(self, reader: asyncio.StreamReader, there: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                cursor = re.search(rb"(?i)\r\nlast-event-id: ([^\r]*)", data)
                if data.startswith(b"GET "):
                    self.asked.append((time.monotonic(), cursor[1] if cursor else b""))
                there.write(data)
        there.transport.abort()

    async def _pass_down(self, answers: asyncio.StreamReader, here: asyncio.StreamWriter) -> None:
        while data := await answers.read(65536):
            if data.startswith(b"HTTP/1.1 "):
                wait = re.search(rb"(?i)\r\nretry-after: (\d+)", data)
                self.answered.append((int(data[9:12]), float(wait[1]) if wait else 0.0))
            elif self.breaks and b"data: " in data:
                self.breaks = False
                here.write(data[: data.index(b"data: ") + 40])
                await here.drain()
                return
            here.write(data)
            await here.drain()


class Running:
    """One documented program, as a user runs it, with an account and a way of its own."""

    def __init__(self, name: str, start: list[str], folder: Path, user, crossing: Crossing) -> None:
        self.name = name
        self.user = user
        self.crossing = crossing
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._start = start
        self._folder = folder
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, api: str) -> None:
        env = {
            "PATH": os.environ["PATH"],
            "LEBUREAU_URL": self.crossing.url,
            "LEBUREAU_API": api,
            "LEBUREAU_API_KEY": self.user.key,
        }
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(
            *self._start,
            cwd=self._folder,
            env=env,
            stdout=pipe,
            stderr=pipe,
            limit=2**24,
            start_new_session=True,  # bash and its curl end together
        )
        out, err = self.process.stdout, self.process.stderr
        self._reading = asyncio.gather(self._read(out, self.lines), self._read(err, self.errors))

    async def _read(self, stream, lines: list[str]) -> None:
        while line := await stream.readline():
            lines.append(line.decode().rstrip("\n"))

    async def kill(self) -> None:
        if self.process is None:
            return
        if self.process.returncode is None:
            os.killpg(self.process.pid, 9)
        await self.process.wait()
        await self._reading

    async def exit(self) -> int:
        """Its exit code, once it has ended by itself."""
        code = await asyncio.wait_for(self.process.wait(), 40)
        await self._reading
        return code

    @property
    def ids(self) -> list[str]:
        return [line.split(" ")[0] for line in self.lines if not line.startswith("state: ")]

    @property
    def refetches(self) -> int:
        return sum(line.startswith("state: ") for line in self.lines)


class Company:
    """All documented programs at once, and the relay that they read."""

    def __init__(self, simulator, serve) -> None:
        self.simulator = simulator
        self.programs: list[Running] = []
        self.skipped: list[str] = []
        self._serve = serve
        self._port = 0

    async def serve(self) -> int:
        """A relay, always at the same port."""
        self.relay = await self._serve(self.simulator.url, listen={"port": self._port}, **LENIENT)
        self._port = int(self.relay.public_url.rpartition(":")[2])
        return self._port

    async def connected(self) -> None:
        await eventually(lambda: self.relay.hub.streams == len(self.programs), 60)

    def emit(self, count: int) -> None:
        for each in self.programs:
            self.simulator.emit(each.user.id, "desktops", count)

    def expected(self, one: Running) -> list[str]:
        return [record.id for record in self.simulator.log(one.user.id, "desktops")]

    async def have_all(self) -> None:
        """Every event once, in order."""
        for each in self.programs:
            want = self.expected(each)
            await eventually(
                lambda each=each, want=want: len(each.ids) >= len(want), 40, f"all of {each.name}"
            )
        for each in self.programs:
            assert each.ids == self.expected(each), each.name

    async def start(self) -> None:
        for each in self.programs:
            await each.start(self.simulator.url)


@pytest.fixture
async def company(simulator, serve, tmp_path):
    """The programs that can run here, before their start."""
    company = Company(simulator, serve)
    port = await company.serve()
    for name in SCRIPTS:
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_text(PROGRAMS[name], encoding="utf-8")
        try:
            start = await asyncio.to_thread(command, name, folder)
        except pytest.skip.Exception as reason:
            company.skipped.append(f"{name}: {reason}")
            continue
        crossing = await Crossing(port).start()
        company.programs.append(Running(name, start, folder, simulator.add_user(), crossing))
    yield company
    for each in company.programs:
        await each.kill()
        await each.crossing.end()


def test_every_program_of_the_guide_is_known_here() -> None:
    assert set(SCRIPTS) == {
        "desktops.sh",
        "desktops_requests.py",
        "desktops_httpx.py",
        "desktops_aiohttp.py",
        "desktops.mjs",
        "desktops_eventsource.mjs",
        "desktops.go",
    }
    assert set(PAGES) == {"desktops.html", "desktops_shared.html"}
    blocks = re.findall(r"^```(?:python|js|go|html|bash)$", GUIDE.read_text(), re.MULTILINE)
    assert len(blocks) == len(PROGRAMS), "no program in the guide goes untried"


@pytest.mark.node
@pytest.mark.timeout(400)  # Go compiles its standard library once
async def test_the_programs_survive_what_the_guide_says_they_do(company) -> None:
    """One story for all of them, since starting them takes longer than living through it."""
    await company.start()
    await company.connected()
    for chapter in (read, break_, restart, end_and_start_again, refuse, gap, revoke):
        await chapter(company)
    if company.skipped:
        pytest.skip(f"all but {company.skipped}")


async def read(company) -> None:
    """What JSON may hold and line readers trip over, and much of it."""
    company.emit(3)
    payload = {"name": "a\u2028b\x85c: d", "text": "é" * 100_000}
    for each in company.programs:
        company.simulator.emit_event(each.user.id, "desktops", "news", payload)
    await company.have_all()


async def break_(company) -> None:
    """Downstream in the middle of an event, then upstream."""
    for each in company.programs:
        each.crossing.breaks = True
    company.emit(2)
    await company.have_all()
    assert not any(each.crossing.breaks for each in company.programs)
    company.simulator.cut_all()
    company.emit(2)
    await company.have_all()


async def restart(company) -> None:
    await company.relay.drain()
    await company.relay.stop()
    company.emit(2)
    await asyncio.sleep(0.3)  # so that they find nobody there
    await company.serve()
    company.emit(2)
    await company.have_all()


async def end_and_start_again(company) -> None:
    """The programs themselves: the cursor is on disk."""
    for each in company.programs:
        await each.kill()
    company.emit(2)
    await company.start()
    await company.have_all()
    assert all(not each.refetches for each in company.programs), "so far nothing was lost"


async def refuse(company) -> None:
    """The relay is gone without a goodbye, and the next one finds Le Bureau refusing."""
    await company.relay.stop()
    before = {}
    for each in company.programs:
        before[each] = len(each.crossing.answered)
        company.simulator.fault("503:2", user=each.user.id, times=1)
    await company.serve()
    await company.connected()
    company.emit(1)
    await company.have_all()
    for each in company.programs:
        answered, asked = each.crossing.answered, each.crossing.asked
        assert len(answered) == len(asked)
        at = next(n for n in range(before[each], len(answered)) if answered[n][0] == 503)
        retry_after_s = answered[at][1]
        assert retry_after_s >= 2
        assert retry_after_s <= asked[at + 1][0] - asked[at][0] < 3 * retry_after_s + 10, each.name


async def gap(company) -> None:
    simulator = company.simulator
    for each in company.programs:
        simulator.fault("cursor_ignored:live", user=each.user.id, times=1)
    want = simulator.subscriptions_opened() + len(company.programs)
    simulator.cut_all()
    await eventually(lambda: simulator.subscriptions_opened() == want, 20)
    company.emit(1)
    await company.have_all()
    for each in company.programs:
        await eventually(lambda each=each: each.refetches, 20, f"{each.name} reads the state")
        assert each.refetches == 1, each.name


async def revoke(company) -> None:
    for each in company.programs:
        company.simulator.revoke(each.user.key, cut=True)
    for each in company.programs:
        assert await each.exit() == 1, each.name
        assert "stopped: the answer is 401" in each.errors[-1], each.name
        assert each.user.key not in "\n".join(each.errors + each.lines)
        assert [status for status, _ in each.crossing.answered].count(401) == 1, each.name


@pytest.mark.browser
@pytest.mark.parametrize("name", PAGES)
async def test_the_pages_survive_what_the_guide_says_they_do(
    name, simulator, user, serve, browser
) -> None:
    async def desktops(_request):
        return web.json_response([1, 2, 3])

    def show(app):
        pages({"/page": ("text/html", PROGRAMS[name])})(app)
        app.router.add_get("/api/desktops", desktops)

    quick = {"auth": {"recheck_interval": 0.3}}
    relay = await serve(simulator.url, show, **quick)
    port = int(relay.public_url.rpartition(":")[2])
    url = relay.public_url.replace("127.0.0.1", "localhost")
    context = await browser.new_context()
    cookie_name, _, value = user.cookie.partition("=")
    place = {"domain": "localhost", "path": "/", "secure": True}
    await context.add_cookies([{"name": cookie_name, "value": value, **place}])
    page = await context.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    await page.goto(f"{url}/page")

    async def says(text: str) -> None:
        await page.wait_for_function(
            f"document.getElementById('state').textContent.includes({text!r})", timeout=20_000
        )

    async def has_all() -> None:
        want = [record.id for record in simulator.log(user.id, "desktops")]
        count = f"document.querySelectorAll('#events li').length >= {len(want)}"
        await page.wait_for_function(count, timeout=20_000)
        lines = await page.locator("#events li").all_text_contents()
        assert [line.split(" ")[0] for line in lines] == want

    await says("open")
    simulator.emit(user.id, "desktops", 3)
    await has_all()
    simulator.cut_all()
    await relay.stop()
    simulator.emit(user.id, "desktops", 3)
    simulator.fault("503:1", times=1)
    simulator.fault("content_type", times=1)  # becomes 502, at which an EventSource gives up
    relay = await serve(simulator.url, show, listen={"port": port}, **quick)
    await eventually(lambda: relay.hub.streams == 1, 30)
    simulator.emit(user.id, "desktops", 3)
    await has_all()
    simulator.fault("cursor_ignored:live", times=1)
    opened = simulator.subscriptions_opened()
    simulator.cut_all()
    await eventually(lambda: simulator.subscriptions_opened() > opened, 20)
    simulator.emit(user.id, "desktops", 1)
    await has_all()
    await says("state read again: 3 desktops")
    simulator.revoke(value)
    await says("stopped: the answer is 401")
    asked = len(simulator.requests)
    await asyncio.sleep(1)
    assert len(simulator.requests) == asked
    assert failures == []
