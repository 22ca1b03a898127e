"""Where the values of settings come from: flags, environment, file. Reads them as written, and checks only their names.

Each reader returns `Given` values by setting name (`web.read_timeout`) and remembers which flag, variable or file
said so, because a message about a wrong value has to name it.
"""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import yaml

from gnomon.job.errors import ConfigurationError

PREFIX = "SCHEDULER_"
CONFIG_VARIABLE = "SCHEDULER_CONFIG"
DEFAULT_FILE = Path("config/config.yaml")

_UNIT_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")


@dataclass(frozen=True, kw_only=True)
class Given:
    """A value as somebody wrote it, and where: `--web-threads`, `SCHEDULER_WEB_THREADS` or `config/config.yaml`."""

    value: object
    origin: str


def flag_of(name: str) -> str:
    """`web.read_timeout` → `--web-read-timeout`."""
    return "--" + re.sub(r"[._]", "-", name)


def variable_of(name: str) -> str:
    """`web.read_timeout` → `SCHEDULER_WEB_READ_TIMEOUT`."""
    return PREFIX + name.replace(".", "_").upper()


def short_variable_of(name: str) -> str | None:
    """`scheduler.interval` is also read from SCHEDULER_INTERVAL: nobody should have to say it twice."""
    return name.replace(".", "_").upper() if name.startswith("scheduler.") else None


def parse_duration(text: str) -> timedelta:
    """Reads `10s`, `1m`, `500ms`, `1h30m`; a bare number is seconds. Raises ValueError or OverflowError."""
    text = text.strip()
    try:
        return timedelta(seconds=float(text))
    except ValueError:
        pass
    if not _DURATION.fullmatch(text):
        raise ValueError("not a duration")
    return timedelta(seconds=sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _PART.findall(text)))


def format_duration(duration: timedelta) -> str:
    """Whole days, else whole seconds, else milliseconds, as `parse_duration` reads them: `7d`, `120s`, `1500ms`."""
    milliseconds = round(duration / timedelta(milliseconds=1))
    if milliseconds and milliseconds % 86_400_000 == 0:
        return f"{milliseconds // 86_400_000}d"
    return f"{milliseconds}ms" if milliseconds % 1000 else f"{milliseconds // 1000}s"


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """`; did you mean …?`, or nothing when no known name is close."""
    close = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else ""


def read_flags(flags: Mapping[str, object], names: Collection[str]) -> dict[str, Given]:
    """Values by flag, however it is spelled (`web.threads`, `web_threads`, `--web-threads`); None is not given."""
    known = {flag_of(name): name for name in names}
    given = {}
    for spelling, value in flags.items():
        flag = flag_of(spelling.removeprefix("--"))
        if value is None or flag == "--config":
            continue
        if flag not in known:
            raise ConfigurationError(f"{flag} is not a setting{suggestion(flag, known)}")
        given[known[flag]] = Given(value=value, origin=flag)
    return given


def read_environment(
    environment: Mapping[str, str], names: Collection[str], *, secrets: Collection[str]
) -> tuple[dict[str, Given], list[str]]:
    """Values by variable, and a warning for each SCHEDULER_* variable that means nothing.

    A secret may also be named by the file that holds it (`…_FILE`). An empty variable counts as not set, as compose
    files pass those on. Raises ConfigurationError when one setting is written twice, or a file can't be read.
    """
    spellings = _spellings(names, secrets)
    given: dict[str, Given] = {}
    for variable in sorted(spellings.keys() & environment.keys()):
        if not environment[variable]:
            continue
        name = spellings[variable]
        if name in given:
            raise ConfigurationError(f"{name} is set twice, by {given[name].origin} and {variable}: keep one of them")
        given[name] = Given(value=_value_of(variable, environment[variable], name), origin=variable)
    return given, _unknown_variables(environment, spellings)


def _spellings(names: Collection[str], secrets: Collection[str]) -> dict[str, str]:
    spellings = {variable_of(name): name for name in names}
    spellings |= {short: name for name in names if (short := short_variable_of(name))}
    return spellings | {f"{variable_of(name)}_FILE": name for name in secrets}


def _value_of(variable: str, text: str, name: str) -> str:
    if variable.removesuffix("_FILE") != variable_of(name) or not variable.endswith("_FILE"):
        return text
    try:
        return Path(text).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(f"{name}: {variable} names {text}, which can't be read: {reason}") from error


def _unknown_variables(environment: Mapping[str, str], spellings: Collection[str]) -> list[str]:
    known = {*spellings, CONFIG_VARIABLE}
    return [
        f"{variable} is not a setting and is ignored{suggestion(variable, known)}"
        for variable in sorted(environment)
        if variable.startswith(PREFIX) and variable not in known
    ]


def find_file(flags: Mapping[str, object], environment: Mapping[str, str]) -> Path | None:
    """The configuration file: named by flag or variable, else the default one if it exists.

    Raises ConfigurationError when a named file is missing: it was meant to say something.
    """
    for origin, path in (("--config", flags.get("config")), (CONFIG_VARIABLE, environment.get(CONFIG_VARIABLE))):
        if path:
            named = Path(str(path))
            if not named.is_file():
                raise ConfigurationError(f"the configuration file {named} named by {origin} does not exist")
            return named
    return DEFAULT_FILE if DEFAULT_FILE.is_file() else None


def read_file(path: Path, names: Collection[str]) -> dict[str, Given]:
    """Values of a YAML file: sections, and settings inside. Raises ConfigurationError on any key that is unknown."""
    document = _load_yaml(path)
    given = {}
    for section, body in _entries(document, f"{path}: the file").items():
        if body is None:
            continue
        for key, value in _entries(body, f"{path}: {section}").items():
            name = f"{section}.{key}"
            if name not in names:
                raise ConfigurationError(f"{path}: {name} is not a setting{suggestion(name, names)}")
            if value is not None:
                given[name] = Given(value=value, origin=str(path))
    return given


def _load_yaml(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the configuration file {path} can't be read") from error
    except yaml.YAMLError as error:
        # The text of a YAML error quotes the line, which may hold a password: only the place is told.
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        place = f" near line {mark.line + 1}" if mark else ""
        raise ConfigurationError(f"the configuration file {path} is not valid YAML{place}") from None


def _entries(node: object, what: str) -> dict[object, object]:
    if node is None:
        return {}
    if not isinstance(node, dict):
        raise ConfigurationError(
            f"{what} should hold sections such as 'web:' with settings such as 'threads: 8' inside"
        )
    return node
