"""The command line: what people read, and the exit codes that scripts go by."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path

import pytest
import requests
import yaml

from lebureau_relay import __version__, cli
from lebureau_relay.config import Settings, effective
from lebureau_relay.errors import ConfigError, RelayError

KEY = "lb_k_a1b2c3d4e5f6"
COMMAND = [sys.executable, "-W", "error", "-m", "lebureau_relay"]


def environment(**extra: str) -> dict[str, str]:
    """The test's own environment, without settings that stand in it by chance."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("LEBUREAU_")}
    return clean | {"PYTHONUNBUFFERED": "1"} | extra


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the program in this process and an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name)

    def go(*arguments: str, **env: str) -> tuple[int, str, str]:
        with monkeypatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            code = cli.main(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return go


@pytest.fixture
def started(tmp_path):
    """Starts the program and leaves it running: the process, its output as text."""
    with ExitStack() as stack:

        def go(*arguments: str, **env: str) -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    [*COMMAND, *arguments],
                    cwd=tmp_path,
                    env=environment(**env),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            return process

        yield go


class TestUsage:
    def test_version(self, run):
        assert run("--version") == (0, f"lebureau-relay {__version__}\n", "")

    def test_the_module_and_the_script_are_the_same_program(self, started):
        assert started("--version").stdout.read() == f"lebureau-relay {__version__}\n"
        (script,) = metadata.entry_points(group="console_scripts", name="lebureau-relay")
        assert script.load() is cli.main

    def test_version_loads_none_of_the_heavy_libraries(self):
        program = (
            "import sys; from lebureau_relay.cli import main; main(['--version']);"
            "print(*{'pydantic', 'aiohttp', 'structlog', 'yaml', 'asyncio'} & set(sys.modules))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
        )
        assert done.stdout.splitlines()[1:] == [""]

    def test_help_names_every_command_of_the_contract(self, run):
        code, out, _ = run("--help")
        assert code == 0
        assert re.findall(r"^  ([a-z][a-z-]+)  ", out, re.MULTILINE) == [
            "serve",
            "demo",
            "simulate",
            "tail",
            "check-config",
        ]

    @pytest.mark.parametrize("command", ["serve", "demo", "simulate", "tail", "check-config"])
    def test_every_command_has_help(self, run, command):
        code, out, err = run(command, "-h")
        assert (code, err) == (0, "")
        assert out.startswith(f"Usage: lebureau-relay {command}")

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "Usage"),
            (["serv"], "No such command 'serv'"),
            (["serve", "--confg", "x"], "No such option: --confg"),
            (["serve", "--config"], "requires an argument"),
            (["tail"], "Missing argument 'URL'"),
            (["demo", "--port", "70000"], "Invalid value for '--port'"),
        ],
    )
    def test_bad_usage_ends_with_2_and_says_why(self, run, arguments, said):
        code, out, err = run(*arguments)
        assert code == 2
        assert said in out + err


class TestCheckConfig:
    def test_prints_the_settings_in_force(self, run):
        code, out, err = run("check-config", LEBUREAU_RELAY_FEED__LINGER="5")
        assert (code, err) == (0, "")
        expected = yaml.safe_load(effective(Settings()))
        assert yaml.safe_load(out) == expected | {"feed": {"linger": 5}}

    def test_reads_the_usual_file_if_it_is_there(self, run, tmp_path):
        (tmp_path / "config").mkdir()
        (tmp_path / "config/relay.yaml").write_text("feed: {linger: 7}")
        assert yaml.safe_load(run("check-config")[1])["feed"] == {"linger": 7}

    def test_reads_the_file_that_it_is_given_instead(self, run, tmp_path):
        (tmp_path / "config").mkdir()
        (tmp_path / "config/relay.yaml").write_text("not: this")
        (tmp_path / "mine.yaml").write_text("feed: {linger: 8}")
        out = run("check-config", "--config", "mine.yaml")[1]
        assert yaml.safe_load(out)["feed"] == {"linger": 8}

    def test_masks_secrets(self, run):
        code, out, err = run(
            "check-config",
            LEBUREAU_RELAY_REDIS__URL="redis://me:hunter2@r.example",
            LEBUREAU_RELAY_REDIS__HASH_SECRET="hunter2",
        )
        assert code == 0
        assert "hunter2" not in out + err
        assert "redis://***@r.example" in out

    def test_tells_every_mistake(self, run):
        code, out, err = run(
            "check-config", LEBUREAU_RELAY_LISTEN__PORT="x", LEBUREAU_RELAY_LISTEN__PROT="1"
        )
        assert (code, out) == (2, "")
        assert sorted(line.split(":")[1].strip() for line in err.splitlines()) == [
            "LEBUREAU_RELAY_LISTEN__PROT",
            "listen.port",
        ]


class TestServe:
    @pytest.mark.parametrize("command", ["serve", "check-config"])
    def test_a_missing_file_is_said(self, run, command):
        assert run(command, "--config", "no.yaml") == (
            2,
            "",
            "error: no.yaml: No such file or directory; give the path of a settings file\n",
        )

    def test_wrong_settings_are_said_before_anything_starts(self, run):
        code, out, err = run("serve", LEBUREAU_RELAY_LISTEN__PORT="x")
        assert (code, out) == (2, "")
        assert err.startswith('error: listen.port: "x" isn\'t a whole number')

    def test_a_port_that_is_taken_is_said(self, run):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            code, _, err = run(
                "serve",
                LEBUREAU_RELAY_LISTEN__HOST="127.0.0.1",
                LEBUREAU_RELAY_LISTEN__PORT=port,
                LEBUREAU_RELAY_ADMIN__PORT="0",
            )
        assert code == 1
        assert err.startswith("error: ")
        assert port in err

    @pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
    def test_it_serves_until_it_is_told_to_stop(self, started, end):
        process = started("serve", LEBUREAU_RELAY_LISTEN__PORT="0", LEBUREAU_RELAY_ADMIN__PORT="0")
        lines = map(json.loads, process.stderr)
        assert next(lines)["event"] == "relay.started"
        process.send_signal(end)
        assert [line["event"] for line in lines][-1] == "relay.stopped"
        assert process.wait(20) == 0


class TestSimulate:
    @pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
    def test_it_serves_until_it_is_told_to_stop(self, started, end):
        process = started("simulate", "--port", "0", "--users", "1")
        assert "http://127.0.0.1:" in process.stdout.readline()
        process.send_signal(end)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""

    def test_a_port_that_is_taken_is_said(self, run):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            code, _, err = run("simulate", "--port", str(port))
        assert code == 1
        assert err.startswith("error: ")
        assert str(port) in err

    def test_options_that_can_not_be_are_said(self, run):
        code, _, err = run("simulate", "--users", "0", "--fault", "earthquake")
        assert code == 2
        assert len(err.splitlines()) == 2
        assert all(line.startswith("error: ") for line in err.splitlines())
        assert "take all, some or none" in run("simulate", "--ids", "few")[2]

    def test_faults_are_listed(self, run):
        code, out, _ = run("simulate", "--list-faults")
        assert code == 0
        assert {"cut", "429"} <= {re.split(r"[\s:\[]", line)[0] for line in out.splitlines()}


class TestDemo:
    def test_the_line_that_it_prints_shows_events(self, started):
        process = started("demo", "--port", "0")
        lines = [process.stdout.readline() for _ in range(3)]
        key, url = re.findall(r"x-api-key: (\w+)' (\S+)", "".join(lines))[0]
        with requests.get(url, headers={"x-api-key": key}, stream=True, timeout=20) as answer:
            assert any(line.startswith(b"data: ") for line in answer.iter_lines())
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


class TestTail:
    def test_it_reads_with_the_key_of_the_environment_until_it_is_told_to_stop(self, started):
        simulator = started("simulate", "--port", "0", "--users", "1", "--rate", "20")
        greeting = simulator.stdout.readline() + simulator.stdout.readline()
        url, key = re.findall(r"http://127[0-9.]+:\d+(?= )|lb_k_\w+", greeting)
        tail = started("tail", f"{url}/api/desktops/stream", "--json", LEBUREAU_API_KEY=key)
        assert isinstance(json.loads(tail.stdout.readline()), dict)
        tail.send_signal(signal.SIGINT)
        assert tail.wait(20) == 0

    def test_a_url_that_can_not_be_is_said(self, run):
        code, out, err = run("tail", "here")
        assert (code, out) == (2, "")
        assert err.startswith("error: URL: isn't an http")


class TestOutcome:
    """What a command raises, and what becomes of it."""

    def outcome(self, error: BaseException, *, debug: bool = False) -> int:
        def job() -> int:
            raise error

        return cli._outcome(job, debug=debug)

    def test_a_failure_is_a_sentence_and_1(self, capsys):
        assert self.outcome(RelayError("no bread; bake some")) == 1
        assert capsys.readouterr().err == "error: no bread; bake some\n"

    def test_mistakes_are_a_sentence_each_and_2(self, capsys):
        assert self.outcome(ConfigError(["a: no; b", "c: no; d"])) == 2
        assert capsys.readouterr().err == "error: a: no; b\nerror: c: no; d\n"

    def test_ctrl_c_is_a_clean_end(self, capsys):
        assert self.outcome(KeyboardInterrupt()) == 0
        assert capsys.readouterr().err == ""

    def test_a_surprise_is_one_line_without_secrets(self, capsys):
        assert self.outcome(ValueError(f"what is {KEY}?")) == 1
        assert capsys.readouterr().err == (
            "error: unexpected ValueError: what is ***?;"
            " run lebureau-relay --debug … for the traceback\n"
        )

    def test_debug_shows_the_traceback_without_secrets(self, capsys):
        assert self.outcome(ValueError(f"what is {KEY}?"), debug=True) == 1
        err = capsys.readouterr().err
        assert "Traceback" in err
        assert Path(__file__).name in err
        assert KEY not in err
