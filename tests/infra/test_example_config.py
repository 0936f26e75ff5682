"""The example configuration is complete and true, so that it cannot rot."""

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from popsteer import config, config_file

EXAMPLE = Path(__file__).parents[2] / "infra" / "popsteer.example.toml"

SECTIONS: dict[str, type[config.Section]] = {
    "dns": config.Dns,
    "pop": config.Pop,
    "pop.link": config.Link,
    "service": config.Service,
    "health": config.Health,
    "tsig": config.Tsig,
    "secondary": config.Secondary,
    "aws": config.Aws,
    "table": config.TableSource,
    "trust": config.Trust,
    "probe": config.Probe,
    "aggregate": config.Aggregate,
    "plan": config.Plan,
    "console": config.Console,
    "telemetry": config.Telemetry,
}
# Not a key of the file.
SET_BY_LOAD = {"folder"}


def _keys() -> dict[tuple[str, str], str]:
    """The comment of every key, by (section, key), as a person reads the file."""
    found: dict[tuple[str, str], str] = {}
    section = ""
    for line in EXAMPLE.read_text().splitlines():
        if head := re.match(r"\[+([a-z.]+)\]+", line):
            section = head[1]
        elif key := re.match(r"([a-z0-9_]+) = [^#]*(#.*)?", line):
            found[section, key[1]] = key[2] or ""
    return found


def _value(raw: dict[str, Any], section: str, key: str) -> Any:
    here: Any = raw
    for part in section.split(".") if section else ():
        here = here[part]
        here = here[0] if isinstance(here, list) else here
    return here[key]


def test_example_loads() -> None:
    loaded = config_file.load(EXAMPLE)
    assert loaded.pop_ids() == ["fra1"]
    assert loaded.health is not None


def test_every_section_of_the_code_is_known_here() -> None:
    classes = set(config.Section.__subclasses__()) - {config.Config}
    assert classes == set(SECTIONS.values())


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_stands_in_the_example(section: str) -> None:
    there = {key for where, key in _keys() if where == section}
    nested = {name.rpartition(".")[2] for name in SECTIONS if name.startswith(f"{section}.")}
    assert there | nested == set(SECTIONS[section].__struct_fields__)


def test_every_key_of_the_top_stands_in_the_example() -> None:
    there = {key for where, key in _keys() if not where}
    tables = {name for name in SECTIONS if "." not in name}
    assert there | tables | SET_BY_LOAD == set(config.Config.__struct_fields__)


@pytest.mark.parametrize(("section", "key"), [k for k, v in _keys().items() if "yours" not in v])
def test_values_are_the_defaults(section: str, key: str) -> None:
    raw = tomllib.loads(EXAMPLE.read_text())
    shape = SECTIONS[section] if section else config.Config
    field = next(f for f in msgspec.structs.fields(shape) if f.name == key)
    value = _value(raw, section, key)
    made = field.default_factory
    default = field.default if made is msgspec.NODEFAULT else made()
    assert msgspec.convert(value, field.type) == default


def test_units_are_explained() -> None:
    units = {"_per_s": "second", "_bps": "bits/s", "_rps": "requests/s", "_ms": "ms", "_s": "s"}
    for (section, key), comment in _keys().items():
        if unit := next((word for end, word in units.items() if key.endswith(end)), ""):
            assert unit in re.split(r"[ ;,]", comment), f"{section}.{key} does not say its unit"
