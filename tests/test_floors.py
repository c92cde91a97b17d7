"""The floors of docs/architecture.md, held by the syntax tree: imports go down only."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "lebureau_relay"
ROOT = Path(__file__).parents[1] / "src" / PACKAGE
PICTURE = Path(__file__).parents[1] / "docs" / "architecture.md"

# The longest matching name rules, so the two brokers may live on different floors.
FLOORS = {
    "": 0,  # the root holds the version and nothing else
    "core": 0,
    "errors": 0,
    "relay": 1,
    "broker": 1,
    "broker.memory": 1,
    "broker.redis": 2,
    "upstream": 2,
    "identity": 2,
    "metrics": 2,
    "logs": 2,
    "tracing": 2,
    "edge": 3,
    "simulator": 3,
    "demo": 3,
    "tail": 3,
    "cli": 4,
    "deployment": 4,
    "main": 4,
    "process": 4,
    "workers": 4,
    "config": 4,
    "__main__": 4,
}
# Who may use the rooms of the top floor.
WIRING = {
    "config": {"cli", "deployment", "main", "process", "workers"},
    "deployment": {"main"},
    "main": {"cli", "process", "workers"},
    "process": {"cli", "workers"},
    "workers": {"cli"},
    "cli": {"__main__"},
    "__main__": set(),
}
# Nothing that waits, opens, reads a clock, draws lots or writes a line.
SHORTLIST = frozenset(
    {"base64", "bisect", "collections", "contextlib", "dataclasses", "enum", "functools"}
    | {"hashlib", "hmac", "itertools", "json", "math", "operator", "re", "string", "struct"}
    | {"types", "typing", "urllib"}
)
# The key of this process's digests: random by nature, and no outcome depends on it.
EXCEPTIONS = {"core.credential": {"secrets"}}


def room_of(module: str) -> str:
    """The room that a dotted name inside the package lies in."""
    rooms = [r for r in FLOORS if module == r or module.startswith(f"{r}.")]
    return max(rooms, key=len, default="")


def imports(tree: ast.Module) -> Iterator[str]:
    """Every name that is imported anywhere in the tree, `from a import b` as `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{a.name}" for a in node.names)


def dotted(path: Path) -> str:
    """A module's name inside the package."""
    return ".".join(p for p in path.relative_to(ROOT).with_suffix("").parts if p != "__init__")


HOUSE = {dotted(path): path for path in sorted(ROOT.rglob("*.py"))}


def tree(name: str) -> ast.Module:
    """A module's syntax."""
    return ast.parse(HOUSE[name].read_bytes(), str(HOUSE[name]))


def complaint(name: str, imported: str) -> str | None:
    """What is wrong with this import, None where nothing is."""
    if imported.startswith("."):
        return "is relative, which hides the floor it comes from"
    head, _, rest = imported.partition(".")
    room, target = room_of(name), room_of(rest)
    if head != PACKAGE or target == room:
        return None
    floor, below = FLOORS[room], FLOORS[target]
    if floor < below:
        return f"goes up from floor {floor} to {below}"
    if below == 2 and floor < 4:
        return f"reaches floor 2 from floor {floor}: relay.ports stands between"
    return "reaches into the wiring" if room not in WIRING.get(target, {room}) else None


@pytest.mark.parametrize("name", HOUSE)
def test_imports_go_down_only(name: str) -> None:
    assert room_of(name) or not name, "a new room: give it a floor here and in the architecture"
    wrong = {i: complaint(name, i) for i in imports(tree(name))}
    assert {i: why for i, why in wrong.items() if why} == {}


@pytest.mark.parametrize("name", [n for n in HOUSE if room_of(n) == "core"])
def test_the_core_is_pure(name: str) -> None:
    waiting = ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith
    assert [n.lineno for n in ast.walk(tree(name)) if isinstance(n, waiting)] == []
    allowed = SHORTLIST | EXCEPTIONS.get(name, set()) | {PACKAGE}
    assert {i.partition(".")[0] for i in imports(tree(name))} - allowed == set()


@pytest.mark.parametrize(
    ("name", "imported"),
    [
        ("core.sse", "lebureau_relay.relay.feed.Feed"),
        ("core.sse", ".event"),
        ("relay.hub", "lebureau_relay.config.Settings"),
        ("upstream", "lebureau_relay.metrics.Meter"),
        ("broker.memory", "lebureau_relay.broker.redis.Leases"),
        ("edge.app", "lebureau_relay.upstream.Upstream"),
        ("edge.app", "lebureau_relay.config.Settings"),
        ("config", "lebureau_relay.main.Relay"),
    ],
)
def test_what_it_would_catch(name: str, imported: str) -> None:
    assert complaint(name, imported)


def rooms_in_the_picture() -> dict[Path, set[str]]:
    """The folders and modules that `docs/architecture.md` names under Rooms: names by folder."""
    _, _, text = PICTURE.read_text().partition("\n## Rooms\n")
    rooms: dict[Path, set[str]] = {ROOT: set()}
    folder = ROOT
    for line in text.split("```")[1].splitlines()[2:]:
        folder = folder if line.startswith("    ") else ROOT
        for name in re.findall(r"\w+(?:/|\.py\b)", line):
            if name.endswith(".py"):
                rooms[folder].add(name)
            else:
                folder = next(p / name for p in (folder, ROOT) if (p / name).is_dir())
                rooms[folder] = set()
    return rooms


def test_the_picture_shows_the_house() -> None:
    rooms = rooms_in_the_picture()
    hidden = {"__init__.py", "__main__.py"}
    for folder in {path.parent for path in HOUSE.values()}:
        assert folder in rooms
    for folder, named in rooms.items():
        there = {path.name for path in folder.glob("*.py")} - hidden
        # a folder without names stands for whatever is in it
        assert named in (there, set()), folder


def test_the_shortlist_is_standard_library() -> None:
    assert sys.stdlib_module_names >= SHORTLIST
