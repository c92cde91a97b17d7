"""The command line: five commands, three exit codes, and no traceback that nobody asked for.

It parses and hands over; each command's work is one function of another room, imported when the
command runs, so that `--version` and `--help` load nothing but this. Exit codes (contract, section
1): 0 a clean end, also after SIGTERM and Ctrl-C; 1 a failure; 2 bad usage or configuration.
"""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from lebureau_relay import __version__
from lebureau_relay.errors import ConfigError, RelayError

PROGRAM: Final = "lebureau-relay"
DEFAULT_CONFIG: Final = Path("config/relay.yaml")
KEY_VARIABLE: Final = "LEBUREAU_API_KEY"
"""Where `tail` finds its API key."""


class ExitCode(IntEnum):
    """How a command may end."""

    CLEAN = 0
    FAILURE = 1
    USAGE = 2


app = typer.Typer(
    name=PROGRAM,
    help="One upstream subscription per user, any number of tabs: a relay for event streams.",
    epilog=f"`{PROGRAM} COMMAND --help` tells a command's options.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help=f"Settings file; without it {DEFAULT_CONFIG} is read if it is there."
    ),
]
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free.")]
HostOption = Annotated[str, typer.Option(help="Address to listen on.")]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with these arguments (None: the process's) and return its exit code."""
    try:
        app(args=None if argv is None else list(argv), prog_name=PROGRAM)
    except SystemExit as end:
        return int(end.code or 0)
    return ExitCode.CLEAN


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer passes the option's value
    if wanted:
        print(PROGRAM, __version__)
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool,  # read from the context by `_end_with`
        typer.Option("--debug", help="Show the traceback of an unexpected failure."),
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    context: typer.Context,
    config: ConfigOption = None,
    workers: Annotated[
        int,
        typer.Option(
            min=1,
            max=64,
            help="Processes on one port that share everything else through Redis (redis.url). "
            "Worker 0 has admin.port, worker 1 the port after it, and so on.",
        ),
    ] = 1,
) -> None:
    """Run the relay."""

    def job() -> int:
        from lebureau_relay.config import load

        settings = load(_config_file(config), os.environ)
        if workers > 1:
            from lebureau_relay.workers import serve_together

            return serve_together(settings, workers)
        from lebureau_relay.process import serve as run  # later, as it is the slow one

        return run(settings)

    _end_with(context, job)


@app.command()
def demo(context: typer.Context, port: PortOption = 8080) -> None:
    """Run simulator, relay and demo page in one go."""

    def job() -> int:
        from lebureau_relay import logs
        from lebureau_relay.config import Settings
        from lebureau_relay.demo import run
        from lebureau_relay.main import Relay

        logs.configure("warning", "auto")  # what goes well is told by the page
        return run(lambda given, extra: Relay(Settings.model_validate(given), extra), port)

    _end_with(context, job)


def _print_faults(wanted: bool) -> None:  # noqa: FBT001 - typer passes the option's value
    if wanted:
        from lebureau_relay.simulator import describe_faults

        print(describe_faults())
        raise typer.Exit


@app.command()
def simulate(
    context: typer.Context,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8081,
    users: Annotated[int, typer.Option(help="Accounts, each with its key and cookie.")] = 3,
    rate: Annotated[
        float, typer.Option(help="Events a second of each user and stream; 0: on request only.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Same seed, same story.")] = 1,
    ids: Annotated[str, typer.Option(help="Which events have an id: all, some or none.")] = "all",
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:ARG][,KEY=VALUE…]", help="What goes wrong; may be repeated."),
    ] = None,
    list_faults: Annotated[  # noqa: ARG001 - its callback prints
        bool,
        typer.Option("--list-faults", callback=_print_faults, is_eager=True, help="Name them all."),
    ] = False,
) -> None:
    """Run the simulated Le Bureau API alone."""

    def job() -> int:
        from lebureau_relay.simulator import IdMode, SimulatorOptions, run

        if ids not in set(IdMode):
            raise ConfigError([f"--ids: {ids!r} is none of the choices; take all, some or none"])
        faults = tuple(fault or ())
        options = SimulatorOptions(
            users=users, rate=rate, seed=seed, ids=IdMode(ids), faults=faults
        )
        return run(host, port, options)

    _end_with(context, job)


@app.command()
def tail(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="Address of the stream.", metavar="URL")],
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object per event and line, for pipes.")
    ] = False,
    type_: Annotated[
        list[str] | None,
        typer.Option(
            "--type", metavar="PATTERN", help="Only such events, as task.*; may be repeated."
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="ID", help="Start with what followed this event.")
    ] = None,
    colour: Annotated[
        bool | None,
        typer.Option("--colour/--no-colour", help="Default: where stdout is a terminal."),
    ] = None,
) -> None:
    """Read a stream in the terminal, reconnecting where it breaks.

    The API key is taken from the environment variable LEBUREAU_API_KEY, since anybody on the
    machine can read arguments.

    A terminal shows one line an event (local time, type, what is in it) and below them how the
    connection stands and how much comes; words about the connection go to stderr. A pipe gets the
    events alone, each at once: add --json for programs. NO_COLOR and TERM=dumb are heeded.

    It ends with 0 after Ctrl-C, SIGTERM or when nobody reads its pipe, with 1 after an answer that
    no repetition would change (a bad key, no such stream, no event stream, an untrusted
    certificate), with 2 for arguments that can't be used. Whatever may pass is waited for.
    """

    def job() -> int:
        from lebureau_relay.tail import run

        key = os.environ.get(KEY_VARIABLE)
        # no-color.org: the variable speaks where the option doesn't
        wanted = False if colour is None and os.environ.get("NO_COLOR") else colour
        return run(url, api_key=key, as_json=json, types=type_ or (), since=since, colour=wanted)

    _end_with(context, job)


@app.command("check-config")
def check_config(context: typer.Context, config: ConfigOption = None) -> None:
    """Print the settings in force, or every mistake."""

    def job() -> int:
        from lebureau_relay.config import effective, load

        print(effective(load(_config_file(config), os.environ)), end="")
        return ExitCode.CLEAN

    _end_with(context, job)


def _config_file(given: Path | None) -> Path | None:
    return given or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)


def _end_with(context: typer.Context, job: Callable[[], int]) -> NoReturn:
    raise typer.Exit(_outcome(job, debug=context.find_root().params["debug"]))


def _outcome(job: Callable[[], int], *, debug: bool) -> int:
    """Run the job; what it raises becomes sentences on stderr and an exit code."""
    try:
        return job()
    except ConfigError as error:
        _complain(*error.mistakes)
        return ExitCode.USAGE
    except RelayError as error:
        _complain(str(error))
    except KeyboardInterrupt:
        return ExitCode.CLEAN
    except Exception as error:  # noqa: BLE001 - the last wall before the user
        _confess(error, debug=debug)
    return ExitCode.FAILURE


def _complain(*sentences: str) -> None:
    for sentence in sentences:
        print(f"error: {sentence}", file=sys.stderr)


def _confess(error: Exception, *, debug: bool) -> None:
    """Tell of a failure that nobody foresaw, whose text may hold what must not be told."""
    from lebureau_relay.logs import redact

    if debug:
        print(redact("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    text = redact(f"{type(error).__name__}: {error}".rstrip(": "))
    mend = "" if debug else f"; run {PROGRAM} --debug … for the traceback"
    _complain(f"unexpected {text}{mend}")
