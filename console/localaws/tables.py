"""DynamoDB tables on disk, behind moto's DynamoDB: one JSON file a table, replaced whole.

A small table is written before the request that changed it is answered, so for a KCL daemon the
lease table, the coordinator state and the worker metrics survive a kill exactly. A large one is
written every half second, or less often where that would take more than a twentieth of the time.
Streams of tables, back-ups and imports do not survive.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from moto.core import DEFAULT_ACCOUNT_ID
from moto.dynamodb.models import DynamoDBBackend, dynamodb_backends
from moto.dynamodb.models.table import Table

from console.localaws import files
from console.localaws.identity import REGION
from console.localaws.messages import Request

TARGET = "DynamoDB_20120810."
READS = ("Get", "BatchGet", "TransactGet", "Query", "Scan", "Describe", "List")
SMALL_ITEMS = 1000
REST_FACTOR = 20
"""A save that took a second is followed by 20 s without one."""

Json = dict[str, Any]


class TableFile(msgspec.Struct):
    """What is kept of a table, in the words of CreateTable."""

    name: str
    created_s: float
    schema: list[Json]
    attributes: list[Json]
    global_indexes: list[Json]
    local_indexes: list[Json]
    throughput: Json
    warm_throughput: Json
    billing_mode: str | None
    deletion_protection: bool | None
    tags: list[Json]
    time_to_live: Json
    continuous_backups: Json
    items: list[Json]


class Named(msgspec.Struct, rename="pascal"):
    """The one field that we read of a request."""

    table_name: str | None = None


class Tables:
    """The tables of the one DynamoDB backend, on disk below `folder`."""

    def __init__(self, folder: Path, clock_s: Callable[[], float]) -> None:
        self.folder = folder
        self.clock_s = clock_s
        self.backend: DynamoDBBackend = dynamodb_backends[DEFAULT_ACCOUNT_ID][REGION]
        self.dirty: set[str] = set()
        """Names of changed tables."""
        self.not_before_s = 0.0

    def load(self) -> None:
        """Take up what an earlier process left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.folder.glob("*.json")):
            kept = files.decode(path, path.read_bytes(), TableFile)
            _restore(self.backend, kept)

    def note(self, request: Request) -> None:
        """A DynamoDB request was answered: remember what it may have changed, and save."""
        operation = request.target.partition(".")[2]
        if operation.startswith(READS):
            return
        try:
            name = msgspec.json.decode(request.body, type=Named).table_name
        except msgspec.MsgspecError:
            name = None
        self.dirty |= {name.rpartition("/")[2]} if name else self._names()
        for name in [name for name in self.dirty if self._is_small(name)]:
            self._save_table(name)

    def save(self, *, at_once: bool = False) -> None:
        """Write the changed tables, unless the last time took too long to follow so soon."""
        start_s = self.clock_s()
        if not self.dirty or (start_s < self.not_before_s and not at_once):
            return
        for name in list(self.dirty):
            self._save_table(name)
        end_s = self.clock_s()
        self.not_before_s = end_s + REST_FACTOR * (end_s - start_s)

    def _is_small(self, name: str) -> bool:
        return len(self.backend.tables.get(name, ())) <= SMALL_ITEMS

    def _save_table(self, name: str) -> None:
        self.dirty.discard(name)
        table = self.backend.tables.get(name)
        path = self.folder / f"{files.file_name(name)}.json"
        if table is None:
            path.unlink(missing_ok=True)
            return
        files.replace(path, msgspec.json.encode(_kept(table)))

    def _names(self) -> set[str]:
        on_disk = {path.stem for path in self.folder.glob("*.json")}
        return on_disk.union(self.backend.tables)


def _kept(table: Table) -> TableFile:
    return TableFile(
        name=table.name,
        created_s=table.created_at.replace(tzinfo=UTC).timestamp(),
        schema=table.schema,
        attributes=table.attr,
        global_indexes=[index.describe() for index in table.global_indexes],
        local_indexes=[index.describe() for index in table.indexes],
        throughput=table.throughput,
        warm_throughput=table.warm_throughput,
        billing_mode=table.billing_mode,
        deletion_protection=table.deletion_protection_enabled,
        tags=table.tags,
        time_to_live=table.ttl,
        continuous_backups=table.continuous_backups,
        items=[item.to_json()["Attributes"] for item in table.all_items()],
    )


def _restore(backend: DynamoDBBackend, kept: TableFile) -> None:
    table = backend.create_table(
        kept.name,
        schema=kept.schema,
        throughput=kept.throughput,
        attr=kept.attributes,
        global_indexes=kept.global_indexes,
        indexes=kept.local_indexes,
        streams=None,
        billing_mode=kept.billing_mode,
        sse_specification=None,
        tags=kept.tags,
        deletion_protection_enabled=kept.deletion_protection,
        warm_throughput=kept.warm_throughput,
    )
    # moto's times are UTC without saying so.
    table.created_at = datetime.fromtimestamp(kept.created_s, UTC).replace(tzinfo=None)
    table.ttl = kept.time_to_live
    table.continuous_backups = kept.continuous_backups
    for item in kept.items:
        table.put_item(item, overwrite=True)
