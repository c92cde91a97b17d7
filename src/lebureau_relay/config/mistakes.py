"""Saying what is wrong with a setting, to the person who wrote it.

It stands apart so that the wording is in one place: the setting, its value unless that may be a
secret, the problem, the mend.
"""

import difflib
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Le
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from lebureau_relay.config.settings import Section, Settings, StreamEntry
from lebureau_relay.logs import redact

_SECRET = frozenset({"redis.url", "redis.hash_secret", "admin.token_file", "upstream.base_url"})
"""Settings whose wrong value may be, or hold, a secret and is not repeated."""

_SHOWN_CHARACTERS = 60  # enough to recognise a value, too little to flood a terminal

_LIST = 'isn\'t a list; write one like ["a", "b"]'
_SECTION = "isn't a group of settings; give each by its own name"
_PROBLEMS = {
    "string_type": "isn't text; put it in quotes",
    "tuple_type": _LIST,
    "model_type": _SECTION,
    "model_attributes_type": _SECTION,
    "dict_type": _SECTION,
    "missing": "is missing; each stream needs a name and a path",
    "too_short": "is empty; give one entry at least, or leave it out for the default",
    "string_too_short": "is empty; give a name",
    "too_long": "has too many entries; take some away",
}


def names() -> Iterator[str]:
    """Every section and setting by its dotted name."""
    for name, field in Settings.model_fields.items():
        yield name
        yield from (f"{name}.{key}" for key in _keys(field.annotation))


def suggest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The mend of an unknown name: the nearest known one (after `prefix`), where one is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {prefix}{near[0]}?" if near else "remove it (config/relay.yaml names all)"


def is_echo(detail: ErrorDetails) -> bool:
    """Whether pydantic calls a list too short only because it threw its wrong entries away."""
    return detail["type"] == "too_short" and bool(detail["input"])


def sentence(detail: ErrorDetails) -> str:
    """One of pydantic's findings as `NAME: VALUE PROBLEM; MEND`."""
    location = detail["loc"]
    name = ".".join(map(str, location))
    if detail["type"] == "extra_forbidden":
        return f"{name}: is no setting; {_unknown(location)}"
    return f"{name}: {_shown(name, detail['input'])}{_problem(detail)}"


def _keys(annotation: Any) -> Iterable[str]:
    is_section = isinstance(annotation, type) and issubclass(annotation, Section)
    return annotation.model_fields if is_section else ()


def _unknown(location: tuple[int | str, ...]) -> str:
    name = ".".join(map(str, location))
    if location[0] == "streams":
        return suggest(str(location[-1]), StreamEntry.model_fields)
    section = str(location[0])
    # Within its section first: `listen.prot` is nearer to `listen.port` than `prot` to anything.
    return suggest(name, [known for known in names() if known.startswith(f"{section}.")] or names())


def _shown(name: str, value: object) -> str:
    if name in _SECRET or isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    text = redact(f'"{value}"' if isinstance(value, str) else str(value))
    return (text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…") + " "


def _problem(detail: ErrorDetails) -> str:
    kind = detail["type"]
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if detail["loc"][0] == "streams" and kind in {"tuple_type", "model_type"}:
        return 'isn\'t a list of streams; write [{"name": "tasks", "path": "/api/tasks/stream"}]'
    field = _field(detail["loc"])
    if kind == "literal_error":
        return f"is none of the choices; take {_choices(field)}"
    if kind in {"greater_than_equal", "less_than_equal", "finite_number"}:
        return f"is out of range; give {_range(field)}"
    if kind.startswith(("int_", "float_")):
        return f"isn't {_kind(field)}; give {_range(field)}"
    return _PROBLEMS.get(kind, f"can't be used ({detail['msg']}); see config/relay.yaml")


def _field(location: tuple[int | str, ...]) -> FieldInfo | None:
    field = Settings.model_fields[str(location[0])]
    kind = field.annotation
    if len(location) > 1 and isinstance(kind, type) and issubclass(kind, Section):
        return kind.model_fields[str(location[1])]
    return None


def _choices(field: FieldInfo | None) -> str:
    kind = field.annotation if field else None
    return " or ".join(get_args(kind)) if get_origin(kind) is Literal else "another"


def _kind(field: FieldInfo | None) -> str:
    return "a whole number" if field and field.annotation is int else "a number"


def _range(field: FieldInfo | None) -> str:
    marks = field.metadata if field else []
    low = next((mark.ge for mark in marks if isinstance(mark, Ge)), 0)
    high = next((mark.le for mark in marks if isinstance(mark, Le)), None)
    return f"{_kind(field)} from {low}" + (f" to {high}" if high is not None else "")
