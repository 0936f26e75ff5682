"""Reads a configuration file into `popsteer.config.Config`, strictly.

Every refusal names the file, the key, the value and what would be valid.
"""

import difflib
import ipaddress
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from popsteer.config import POLICIES, Config, Health, Pop, Section, Service
from popsteer.errors import ConfigError
from popsteer.names import ID_RULE, dns_name, is_id


def load(path: Path) -> Config:
    """The configuration in a file.

    Raises:
        ConfigError: names the file, the key, the value and what would be valid.
    """
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder, not a configuration file") from None
    except PermissionError:
        raise ConfigError(f"{path}: no permission to read it") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    return parse(raw, path)


def parse(raw: dict[str, Any], path: Path) -> Config:
    """The configuration in a parsed TOML document; `path` is where it came from.

    Raises:
        ConfigError: as `load`.
    """
    _refuse_unknown(raw, Config, "", path)
    if "folder" in raw:
        raise ConfigError(f"{path}: unknown key folder; remove it")
    try:
        config = msgspec.convert(raw | {"folder": str(path.resolve().parent)}, Config)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at ")
        key = where.strip("`").removeprefix("$.")
        value = _value_at(raw, key)
        raise ConfigError(f"{path}: {key} = {value!r}: {message}") from None
    _check(config, path)
    return config


def _refuse_unknown(raw: Any, shape: Any, where: str, path: Path) -> None:
    """Walk the document beside the types; msgspec alone would not name the nearest key."""
    if isinstance(shape, msgspec.inspect.VarTupleType):
        for index, item in enumerate(raw if isinstance(raw, list) else []):
            _refuse_unknown(item, shape.item_type, f"{where}[{index}]", path)
        return
    if isinstance(shape, msgspec.inspect.UnionType):
        for part in shape.types:
            _refuse_unknown(raw, part, where, path)
        return
    if isinstance(shape, msgspec.inspect.StructType):
        shape = shape.cls
    if not (isinstance(shape, type) and issubclass(shape, Section) and isinstance(raw, dict)):
        return
    info = msgspec.inspect.type_info(shape)
    assert isinstance(info, msgspec.inspect.StructType)
    fields = {field.encode_name: field.type for field in info.fields}
    for key, value in raw.items():
        full = f"{where}.{key}" if where else key
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"valid: {', '.join(sorted(fields))}"
            raise ConfigError(f"{path}: unknown key {full}; {hint}")
        _refuse_unknown(value, fields[key], full, path)


def _value_at(raw: Any, key: str) -> Any:
    for part in key.replace("[", ".").replace("]", "").split("."):
        try:
            raw = raw[int(part)] if isinstance(raw, list) else raw[part]
        except (KeyError, IndexError, ValueError, TypeError):
            return None
    return raw


def _check(config: Config, path: Path) -> None:
    """What types cannot say: ids are unique and names refer to something."""
    ids = [pop.id for pop in config.pop]
    try:
        _check_ids(ids, "pop.id")
        for pop in config.pop:
            _check_pop(pop)
        if config.health is not None:
            _check_health(config.health, ids)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    for service in config.service:
        try:
            _check_service(service, ids)
        except ConfigError as error:
            raise ConfigError(f"{path}: service {service.name}: {error}") from None
    names = [dns_name(service.name) for service in config.service]
    if doubled := {n for n in names if names.count(n) > 1}:
        raise ConfigError(f"{path}: service {min(doubled)} stands twice; names are unique")
    try:
        _ = config.dns.addresses, config.dns.rrl_exempt_nets
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _check_service(service: Service, ids: list[str]) -> None:
    if service.policy not in POLICIES:
        near = difflib.get_close_matches(service.policy, POLICIES, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(
            f"policy = {service.policy!r} is none; {hint}valid: {', '.join(POLICIES)}"
        )
    named = (("pops", service.pops), ("weight", service.weight), ("bias", service.bias))
    for key, name in ((key, name) for key, names in named for name in names):
        if name not in ids and (key, name) != ("pops", "*"):
            near = difflib.get_close_matches(name, ids, 1, 0.0)
            raise ConfigError(
                f"{key} names {name!r}, which is no [[pop]]; did you mean "
                f"{near[0] if near else '*'}?"
            )


def _check_pop(pop: Pop) -> None:
    where = f"pop {pop.id}:"
    if pop.location and not (abs(pop.location[0]) <= 90 and abs(pop.location[1]) <= 180):
        raise ConfigError(
            f"{where} location = {list(pop.location)}: write [latitude, longitude] in degrees"
        )
    for key, addresses, family in (
        ("ipv4", pop.ipv4, ipaddress.IPv4Address),
        ("ipv6", pop.ipv6, ipaddress.IPv6Address),
    ):
        for address in addresses:
            try:
                family(address)
            except ValueError:
                raise ConfigError(
                    f"{where} {key} = {address!r}: write an IPv{key[-1]} address"
                ) from None
    _check_ids([link.id for link in pop.link], f"{where} link.id")


def _check_health(health: Health, ids: list[str]) -> None:
    """Keys that need each other."""
    if health.method == "file" and not health.file:
        raise ConfigError('health.file is missing: method = "file" reads it')
    if health.method == "command" and not health.command:
        raise ConfigError('health.command is missing: method = "command" runs it')
    if not health.path.startswith("/"):
        raise ConfigError(f"health.path = {health.path!r}: write a path that starts with /")
    if health.all_down == "fallback" and health.fallback not in ids:
        known = ", ".join(ids) or "none"
        raise ConfigError(f"health.fallback = {health.fallback!r}: write the id of a POP: {known}")


def _check_ids(ids: list[str], key: str) -> None:
    for text in ids:
        if not is_id(text):
            raise ConfigError(f"{key} {text!r}: {ID_RULE}")
    if twice := {i for i in ids if ids.count(i) > 1}:
        raise ConfigError(f"{key} {min(twice)!r} stands twice; ids are unique")
