"""The services that `popsteer up` steers: one of its own, or those of a file of `[[service]]`."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import asdict

from console.lab.clients import CACHES_PER_PREFIX
from popsteer import config_file
from popsteer.config import Service
from popsteer.errors import ConfigError
from popsteer.world import World

OWN = Service(name="www.cdn.example.", ttl_s=20)
SECTION = "service"


def services_of(path: Path | None, own: World) -> tuple[Service, ...]:
    """The services of a file, or the one of ours; their `query_bits` are made to fit the world.

    So of what the file says of them only the proportions count.

    Raises:
        ConfigError: the file has no services, other sections, or names POPs that the world lacks.
    """
    asked = (OWN,) if path is None else _read(path, own.pops)
    bps = sum(one.query_bits / max(one.ttl_s, 1) for one in asked)
    mean_bps = float(own.demand_bps.mean(axis=0).sum()) / (CACHES_PER_PREFIX * len(own.net))
    return tuple(
        Service(**asdict(one) | {"query_bits": one.query_bits * mean_bps / bps}) for one in asked
    )


def _read(path: Path, pops: Sequence[str]) -> tuple[Service, ...]:
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"--services {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--services {path}: not valid TOML: {error}") from None
    if others := sorted(raw.keys() - {SECTION}):
        raise ConfigError(
            f"--services {path}: {others[0]} is not for this file; it has [[{SECTION}]] sections "
            "alone, `popsteer up` makes all others"
        )
    if not raw.get(SECTION):
        raise ConfigError(f"--services {path}: no [[{SECTION}]] in it; write at least one")
    return config_file.parse(raw | {"pop": [{"id": pop} for pop in pops]}, path).service


def sections(services: Sequence[Service]) -> str:
    """The services as TOML."""
    return "".join(_section(one) for one in services)


def _section(service: Service) -> str:
    lines = [f"{key} = {_toml(value)}" for key, value in asdict(service).items()]
    return "\n".join(("", f"[[{SECTION}]]", *lines, ""))


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(of)}" for key, of in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)
