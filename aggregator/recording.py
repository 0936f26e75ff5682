"""A recording: what came through the streams for a while, in a folder, fit to be replayed.

    recording.json     first and last time, and how many records
    popsteer.toml      the configuration, as it was
    targets.csv        the targets, where the planner had any
    locations.csv      the known locations, where the aggregator had any
    routes/<pop>.csv   the POPs' routes, as they were at the end
    orders/<ms>.json   every version of the orders, by the time from which it held
    records/<ms>.parquet   records by arrival, one file for each `FILE_MS`

This module owns the format. It reads records in one order that does not depend on shards: by
arrival, then by source (the partition key), then by the source's own order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from popsteer.clock import SECOND_MS
from popsteer.errors import ConfigError

VERSION = 1
FILE_MS = 10 * SECOND_MS
ABOUT = "recording.json"
CONFIG = "popsteer.toml"
TARGETS = "targets.csv"
LOCATIONS = "locations.csv"
ORDERS = "orders"
ROUTES = "routes"
RECORDS = "records"

_SCHEMA = pa.schema(
    [
        ("arrival_ms", pa.int64()),
        ("stream", pa.dictionary(pa.int8(), pa.string())),
        ("key", pa.string()),
        # 56 digits: as text, for readers whose numbers are smaller.
        ("sequence", pa.string()),
        ("data", pa.binary()),
    ]
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """One record as the stream gave it."""

    arrival_ms: int
    stream: str
    key: str
    """The partition key: the source's lane."""
    sequence: int
    data: bytes


class About(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`recording.json`."""

    version: int = VERSION
    first_ms: int
    """Records that arrived from here on are in it."""
    last_ms: int
    """The end of the recording, exclusive."""
    records: int


def write_about(folder: Path, about: About) -> None:
    """Say that the recording is whole; written last."""
    (folder / ABOUT).write_bytes(msgspec.json.format(msgspec.json.encode(about)) + b"\n")


def read_about(folder: Path) -> About:
    """What the folder holds.

    Raises:
        ConfigError: not a whole recording.
    """
    path = folder / ABOUT
    try:
        about = msgspec.json.decode(path.read_bytes(), type=About)
    except OSError:
        raise ConfigError(
            f"{path}: no such file, so {folder} is no whole recording; make one with: "
            f"popsteer record {folder}"
        ) from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: {error}") from None
    if about.version != VERSION:
        raise ConfigError(f"{path}: version = {about.version}; this popsteer reads {VERSION}")
    return about


def write_file(folder: Path, start_ms: int, records: list[Recorded]) -> None:
    """Write the records that arrived within `FILE_MS` of `start_ms`."""
    columns: list[Any] = [
        pa.array([r.arrival_ms for r in records], pa.int64()),
        pa.array([r.stream for r in records]).dictionary_encode().cast(_SCHEMA.field(1).type),
        pa.array([r.key for r in records]),
        pa.array([str(r.sequence) for r in records]),
        pa.array([r.data for r in records], pa.binary()),
    ]
    path = folder / RECORDS / f"{start_ms:013d}.parquet"
    path.parent.mkdir(exist_ok=True)
    # The data is compressed in itself.
    pq.write_table(pa.table(columns, schema=_SCHEMA), path, compression="none")


def read(folder: Path) -> Iterator[Recorded]:
    """All records in order; memory holds one file's.

    Raises:
        ConfigError: a file is broken.
    """
    for path in sorted((folder / RECORDS).glob("*.parquet")):
        try:
            table = pq.read_table(path, schema=_SCHEMA, use_threads=False)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ConfigError(f"{path}: {error}; record it again") from None
        columns = [table.column(name).to_pylist() for name in _SCHEMA.names]
        records = [
            Recorded(arrival_ms, stream, key, int(sequence), data)
            for arrival_ms, stream, key, sequence, data in zip(*columns, strict=True)
        ]
        yield from sorted(records, key=lambda r: (r.arrival_ms, r.stream, r.key, r.sequence))
