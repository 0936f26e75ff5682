"""The shelf: compiled tables on disk, written once by the node and mapped by all who answer.

Owns the folder of compiled tables. A table on it is a folder of flat arrays, the index and the
columns that answers need, so that a node's workers share one copy in memory, a start with a known
table builds nothing, and a worker is told of a table by its path alone. The shelf is a cache: what
is missing is built anew, and nothing on it outlives a boot of the machine, because files that were
not yet on the disk when power failed must never be believed.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from popsteer.errors import TableError
from popsteer.table import NO_RTT, Ranked, Table, TableMeta, of_sets
from resolver.fast.index import ROWS_MAX, Index, load, mapped

KEPT = 2
"""Tables on the shelf: a worker may still be about to open the one before."""
_FORMAT = b"2"
"""Of the files; another is another table."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_COLUMNS = ("net", "plen", "scope")
_RANKED = ("pop", "share")
"""Of each set of answers."""
_HEAD = "head.json"


class _Head(msgspec.Struct):
    meta: TableMeta
    pops: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Shelved:
    """A table as it is served."""

    table: Table
    index: Index | None = None
    """None is not built yet: only the slow path knows this table."""
    folder: Path | None = None
    """Where both are mapped from; None is in the memory of this process."""

    def __reduce__(self) -> tuple[Any, ...]:
        """A path for a worker, which then maps the files itself."""
        if self.folder is not None:
            return open_shelved, (self.folder,)
        return Shelved, (self.table, self.index)


class Shelf:
    """The compiled tables of one node."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._prepared = False

    def prepare(self) -> None:
        """Have what builds an index ready in memory: the next table need not wait for it."""
        if self._prepared:
            return
        from resolver.fast.compile import ensure_compiled
        from resolver.fast.fill import warm

        self._prepared = True
        ensure_compiled()
        warm()

    def find(self, table: Table) -> Shelved:
        """The table with its index if it is on the shelf, else as it is."""
        return self._find(table, self._place(table))

    def _find(self, table: Table, folder: Path) -> Shelved:
        if not folder.exists():
            return Shelved(table)
        try:
            return open_shelved(folder)
        except TableError:
            shutil.rmtree(folder, ignore_errors=True)
            return Shelved(table)

    def put(self, table: Table) -> Shelved:
        """The table with its index, built now if it is not on the shelf.

        Where nothing can be written the index stays in memory, and where a table has more rows
        than an index can hold there is none.
        """
        place = self._place(table)
        found = self._find(table, place)
        if found.index is not None:
            return found
        # numba takes most of a start, and the slow path answers before it is there.
        from resolver.fast.fill import build

        if len(table) >= ROWS_MAX:
            return found
        self.prepare()
        try:
            _write(table, place)
            self._sweep(place)
            return open_shelved(place)
        except (OSError, TableError):
            return Shelved(table, build(table))

    def _place(self, table: Table) -> Path:
        sha = hashlib.sha256(_FORMAT + (_BOOT.read_bytes() if _BOOT.exists() else b""))
        sha.update(msgspec.json.encode(_Head(table.meta, table.pops)))
        for column in _columns(table).values():
            sha.update(np.ascontiguousarray(column).data)
        return self._folder / f"{table.meta.generation}-{sha.hexdigest()[:16]}"

    def _sweep(self, newest: Path) -> None:
        """Remove older tables; who still maps one keeps its pages until it lets go."""
        others = [one for one in self._folder.iterdir() if one != newest]
        others.sort(key=lambda one: one.stat().st_mtime_ns, reverse=True)
        for one in others[KEPT - 1 :]:
            shutil.rmtree(one, ignore_errors=True)


def open_shelved(folder: Path) -> Shelved:
    """A table mapped from its folder.

    Raises:
        TableError: the folder does not hold a whole one.
    """
    try:
        head = msgspec.json.decode((folder / _HEAD).read_bytes(), type=_Head)
        index = load(folder)
        net, plen, scope = (mapped(folder / f"{name}.npy") for name in _COLUMNS)
        sets = [
            [mapped(folder / f"{name}.{number}.npy") for name in _RANKED]
            for number in range(1 + len(head.meta.further))
        ]
    except (OSError, ValueError) as error:
        raise TableError(f"{folder}: not a compiled table: {error}; delete it") from None
    # RTTs are for people and the planner; an answer needs none.
    rtt = np.broadcast_to(np.uint16(NO_RTT), sets[0][0].shape)
    ranked = [Ranked(pop, share, rtt) for pop, share in sets]
    table = of_sets(head.meta, head.pops, net, plen, scope, ranked)
    return Shelved(table, index, folder)


def _columns(table: Table) -> dict[str, Any]:
    """What answers need of a table, by the name of its file."""
    ranked = {
        f"{name}.{number}": getattr(one, name)
        for number, one in enumerate(table.sets)
        for name in _RANKED
    }
    return {name: getattr(table, name) for name in _COLUMNS} | ranked


def _write(table: Table, folder: Path) -> None:
    """Write it whole: the folder appears under its name only when it is complete."""
    from resolver.fast.fill import build

    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        build(table, partial)
        for name, column in _columns(table).items():
            np.save(partial / f"{name}.npy", column)
        (partial / _HEAD).write_bytes(msgspec.json.encode(_Head(table.meta, table.pops)))
        partial.rename(folder)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
