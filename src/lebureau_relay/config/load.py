"""Reading settings: file and environment in, settings or every mistake at once out.

It stands apart because telling a person what to mend is most of the work: pydantic finds what is
wrong, this module says where it was written, what is meant and what would do.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from lebureau_relay.config.mistakes import is_echo, names, sentence, suggest
from lebureau_relay.config.rules import conflicts
from lebureau_relay.config.settings import Settings
from lebureau_relay.errors import ConfigError

PREFIX = "LEBUREAU_RELAY_"

# Kubernetes gives every container variables named after the services of its namespace; for a
# service called lebureau-relay they carry our prefix. No setting has such a name.
_SERVICE_LINK = re.compile(r"(.+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")  # the value of its NAME_PORT


def load(path: Path | None, env: Mapping[str, str]) -> Settings:
    """The settings that a YAML file (None: no file) and an environment give; the latter wins.

    Raises ConfigError with every mistake, each naming the setting, the problem and the mend.
    """
    mistakes: list[str] = []
    written = _read(path, mistakes) if path else {}
    complete = not mistakes
    known = _known(env, mistakes)
    data = _merge(written, _Environment(known)())
    settings, wrong = _validate(data, mistakes, _Places(path, known))
    if complete:  # against half of what was written they would be false alarms
        mistakes += [
            said
            for compared, said in conflicts(settings)
            if wrong.isdisjoint(
                part for name in compared for part in (name, name.partition(".")[0])
            )
        ]
    if mistakes:
        raise ConfigError(mistakes)
    return settings


def effective(settings: Settings) -> str:
    """The settings as YAML in the order of the contract, secrets masked."""
    return yaml.safe_dump(_plain(settings.model_dump(mode="json")), sort_keys=False)


def _plain(value: Any) -> Any:
    """Whole seconds without the `.0` that nobody wrote."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


class _UniqueKeys(yaml.SafeLoader):
    """YAML says that keys are unique; PyYAML lets the last one win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - the library's signature
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                said = f"{key.value} stands here twice"
                raise yaml.constructor.ConstructorError(None, None, said, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read(path: Path, mistakes: list[str]) -> dict[str, Any]:
    """What the file says; blank sections and values (`key:`) are left to the defaults."""
    try:
        text = path.read_text(encoding="utf-8")
        written = yaml.load(text, _UniqueKeys)  # noqa: S506 - it is a SafeLoader
    except OSError as error:
        mistakes.append(f"{path}: {error.strerror}; give the path of a settings file")
    except UnicodeDecodeError:
        mistakes.append(f"{path}: isn't UTF-8 text; save it as UTF-8")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        mistakes.append(f"{path}{place}: isn't YAML ({error.problem}); mend the line")
    except yaml.YAMLError:
        mistakes.append(f"{path}: holds characters that YAML doesn't allow; remove them")
    else:
        if written is None or isinstance(written, dict):
            return _without_blanks(written or {})
        mistakes.append(f"{path}: isn't a list of sections; start with one, like `listen:`")
    return {}


def _without_blanks(written: dict[Any, Any]) -> dict[str, Any]:
    return {
        str(key): _without_blanks(value) if isinstance(value, dict) else value
        for key, value in written.items()
        if value is not None
    }


def _merge(under: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = _merge(below, value)
        else:
            merged[key] = value
    return merged


class _Layout(Settings, BaseSettings):
    """How the library finds settings in an environment; nothing is read by making one of these."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__")


class _Environment(EnvSettingsSource):
    """The library's reading of an environment that is given, not of the process's own."""

    def __init__(self, env: Mapping[str, str]) -> None:
        super().__init__(_Layout)
        self.env_vars = {name.lower(): value for name, value in env.items()}

    def decode_complex_value(self, field_name: str, field: Any, value: Any) -> Any:
        """What the JSON says, or the text: validation then tells it with the other mistakes."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


def _known(env: Mapping[str, str], mistakes: list[str]) -> dict[str, str]:
    """The part of the environment that is ours; unknown names under our prefix are mistakes."""
    variables = {_variable(name) for name in names()}
    known = {}
    for name, value in env.items():
        if not name.upper().startswith(PREFIX):
            continue
        bare = name.upper().removeprefix(PREFIX)
        if bare in variables:
            known[name] = value
        elif not _is_service_link(bare, value):
            mistakes.append(f"{name}: is no setting; {suggest(bare, variables, PREFIX)}")
    return known


def _variable(name: str) -> str:
    """The environment's name for a setting, without the prefix."""
    return name.upper().replace(".", "__")


def _is_service_link(bare: str, value: str) -> bool:
    of_port = bare == "PORT" or bare.endswith("_PORT")
    return bool(_SERVICE_LINK.fullmatch(bare) or (of_port and _SERVICE_URL.match(value)))


class _Places:
    """Where a setting was written, for people who look for it."""

    def __init__(self, path: Path | None, env: Mapping[str, str]) -> None:
        self._path = path
        self._variables = {name.upper(): value for name, value in env.items()}

    def of(self, name: str) -> str:
        """The variable that gives the setting `name`, else the file."""
        section, _, key = name.partition(".")
        own, whole = PREFIX + _variable(name), PREFIX + _variable(section)
        if own in self._variables:
            return own
        # A section as JSON: no need to parse it again to know whether the key stands there.
        return whole if f'"{key}"' in self._variables.get(whole, "") else str(self._path)


def _validate(
    data: dict[str, Any], mistakes: list[str], places: _Places
) -> tuple[Settings, set[str]]:
    """The settings, with the default for each wrong one, and the names of the wrong ones."""
    try:
        return Settings(**data), set()
    except ValidationError as error:
        details = [d for d in error.errors(include_url=False) if not is_echo(d)]
    wrong = {_setting(detail["loc"]) for detail in details}
    mistakes += [f"{sentence(detail)} [{places.of(_setting(detail['loc']))}]" for detail in details]
    return Settings(**_without(data, wrong)), wrong


def _setting(location: tuple[int | str, ...]) -> str:
    """The dotted name of the setting or section that a finding is about; a list is one setting."""
    return ".".join(str(part) for part in location[:2] if isinstance(part, str))


def _without(data: dict[str, Any], wrong: set[str]) -> dict[str, Any]:
    return {
        section: {k: v for k, v in value.items() if f"{section}.{k}" not in wrong}
        if isinstance(value, dict)
        else value
        for section, value in data.items()
        if section not in wrong
    }
