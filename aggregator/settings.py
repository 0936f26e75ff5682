"""What the daemon hands to its record processors: one small JSON file per stream.

A record processor is started by the JVM, which passes nothing on but the environment; `VARIABLE`
names the file. It holds what the fold of this stream needs, and no secret.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from popsteer import locations
from popsteer.config import Aws, Config
from popsteer.errors import SetupError
from popsteer.names import demand_subject, link_subject
from popsteer.samples import Kind
from popsteer.table import SETS_MAX

if TYPE_CHECKING:
    from aggregator.window import Rules

VARIABLE = "POPSTEER_CONSUMER"

BULK_KINDS = (Kind.DEMAND, Kind.RTT)
URGENT_KINDS = (Kind.SIGNAL,)


class ConsumerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of all record processors of one stream on one machine."""

    aws: Aws
    stream: str
    kinds: tuple[Kind, ...]
    window_ms: int
    grace_ms: int
    subjects: tuple[str, ...]
    """What samples of this stream may be about; empty: not known."""
    locations: str = ""
    """File of prefixes whose place is known; empty: none is."""
    pop_locations: dict[str, tuple[float, float]] = {}


def bulk(config: Config) -> ConsumerSettings:
    """RTT and demand, both about POPs; demand also by set of answers."""
    sets = range(SETS_MAX if len(config.service) > 1 else 1)
    return ConsumerSettings(
        aws=config.aws,
        stream=config.aws.bulk_stream,
        kinds=BULK_KINDS,
        window_ms=config.aggregate.bulk_window_s * 1000,
        grace_ms=round(config.aggregate.grace_s * 1000),
        subjects=tuple(demand_subject(pop.id, number) for number in sets for pop in config.pop),
        locations=str(config.path(named)) if (named := config.aggregate.locations) else "",
        pop_locations={pop.id: pop.location for pop in config.pop if pop.location is not None},
    )


def urgent(config: Config) -> ConsumerSettings:
    """Signals, about POPs and their links."""
    links = [link_subject(pop.id, link.id) for pop in config.pop for link in pop.link]
    return ConsumerSettings(
        aws=config.aws,
        stream=config.aws.urgent_stream,
        kinds=URGENT_KINDS,
        window_ms=config.aggregate.urgent_window_s * 1000,
        grace_ms=round(config.aggregate.grace_s * 1000),
        subjects=(*(pop.id for pop in config.pop), *links),
    )


def rules(settings: ConsumerSettings, shard: str) -> "Rules":
    """What the fold of a shard follows.

    Raises:
        ConfigError: the locations cannot be read.
    """
    from aggregator.window import Rules

    known = None
    if settings.locations:
        # Compiled code weighs 60 MB: processors that judge nothing do without.
        from aggregator.light import sites

        known = sites(locations.load(Path(settings.locations)), settings.pop_locations)
    return Rules(
        stream=settings.stream,
        shard=shard,
        kinds=settings.kinds,
        window_ms=settings.window_ms,
        grace_ms=settings.grace_ms,
        subjects=frozenset(settings.subjects),
        sites=known,
    )


def save(settings: ConsumerSettings, path: Path) -> None:
    """Write the file."""
    path.write_bytes(msgspec.json.encode(settings))


def load(environment: Mapping[str, str] = os.environ) -> ConsumerSettings:
    """The settings that the environment names.

    Raises:
        SetupError: no such variable or file, or not of this version.
    """
    path = environment.get(VARIABLE)
    if not path:
        raise SetupError(f"{VARIABLE} is not set; record processors are started by the aggregator")
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=ConsumerSettings)
    except (OSError, msgspec.DecodeError) as error:
        raise SetupError(f"{VARIABLE} = {path}: {error}") from None
