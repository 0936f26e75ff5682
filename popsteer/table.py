"""The table: generation N of prefix -> ranked POPs with shares.

Prefixes are disjoint and sorted (IPv4 first), so ECS scopes never overlap (RFC 7871 §7.2.1) and a
lookup is one binary search. Neighbours with equal answers are merged, so scopes are as wide as
they can be. The bytes are one Arrow IPC stream with the metadata as JSON in the schema, followed
by a seal: magic, key id and Ed25519 signature over the SHA-256 of all before. Any Arrow reader
reads it; only a verified one is loaded in production.

Services whose policies differ have sets of answers of their own over the same prefixes: the first
set is the columns `pop`, `share` and `rtt`, further ones are `pop.1` and so on, and the metadata
says for whom they are. One pointer moves all of them at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from popsteer.errors import TableError, TrustError
from popsteer.intervals import blocks, common_prefix_length, flatten, last_of, merge
from popsteer.names import IPV6_BIT, LENGTH_MASK, Net, Plen, Prefix
from popsteer.signing import KEY_ID_BYTES, SIGNATURE_BYTES, Signer, Verifier

VERSION = 1
CANDIDATES_MAX = 8
NO_POP = 0xFFFF
NO_RTT = 0xFFFF
"""RTT unknown; known values are in units of 0.1 ms."""
SHARE_WHOLE = 255
"""The shares of a row add up to this; candidates with share 0 are the order of failover."""
POPS_MAX = 4_096
SETS_MAX = 8
"""Sets of answers in one table."""
CURRENT_KEY = "tables/current.json"

_MAGIC = b"POPSEAL1"
_SEAL_BYTES = len(_MAGIC) + KEY_ID_BYTES + SIGNATURE_BYTES


class Further(msgspec.Struct, frozen=True, kw_only=True):
    """A further set of answers."""

    services: tuple[str, ...]
    """Whom it is for, by DNS name."""
    policy: str = ""
    default: tuple[str, ...] = ()
    note: str = ""


class TableMeta(msgspec.Struct, frozen=True, kw_only=True):
    """Where a table comes from."""

    generation: int
    parent: int = 0
    created_ms: int = 0
    policy: str = ""
    code: str = ""
    """Version of the code that made it."""
    window_first_ms: int = 0
    window_last_ms: int = 0
    """The measurement windows that it rests on."""
    inputs: dict[str, tuple[str, str]] = {}
    """First and last Kinesis sequence number read, by stream and shard."""
    default: tuple[str, ...] = ()
    """Ranked POPs for a prefix that no row covers: the static order."""
    note: str = ""
    further: tuple[Further, ...] = ()
    """Sets beside the first one, which is for every service that none of these names."""

    def set_of(self, service: str) -> int:
        """The number of the set of answers for a service, by its DNS name."""
        for number, one in enumerate(self.further, 1):
            if service in one.services:
                return number
        return 0

    def of_set(self, number: int) -> "TableMeta":
        """As if a set stood alone."""
        if not number:
            return self
        one = self.further[number - 1]
        return msgspec.structs.replace(
            self, policy=one.policy, default=one.default, note=one.note, further=()
        )


class Pointer(msgspec.Struct, frozen=True, kw_only=True):
    """`tables/current.json`, moved by compare-and-swap."""

    generation: int
    key: str
    sha256: str
    created_ms: int


def key(generation: int) -> str:
    """The object that holds a generation; it is written once and never changed."""
    return f"tables/{generation:012d}.arrow"


@dataclass(frozen=True, slots=True)
class Table:
    """n rows, m pops; see `build`."""

    meta: TableMeta
    pops: tuple[str, ...]
    """What the `pop` column indexes."""
    net: Net
    plen: Plen
    pop: NDArray[np.uint16]
    """[n, 8], ranked; NO_POP where there are fewer."""
    share: NDArray[np.uint8]
    """[n, 8]"""
    rtt: NDArray[np.uint16]
    """[n, 8], 0.1 ms."""
    scope: NDArray[np.uint8]
    """[n], the ECS scope prefix-length of the answer."""
    further: tuple["Table", ...] = ()
    """The further sets, each as a table of its own over the same prefixes."""
    ipv4_rows: int = field(init=False, compare=False)
    """Rows [0, ipv4_rows) are IPv4, the rest IPv6."""

    def __post_init__(self) -> None:
        # Worked out once: it reads a whole column, and every lookup needs it.
        split = int(np.searchsorted(self.plen & np.uint8(IPV6_BIT), 1))
        object.__setattr__(self, "ipv4_rows", split)

    def __len__(self) -> int:
        return len(self.net)

    def find(self, prefix: Prefix) -> tuple[int, int]:
        """Row that covers the start of a prefix, or -1, and the ECS scope of that answer.

        In a gap the scope is that of the widest block around the address that touches no row:
        scopes stay disjoint (RFC 7871 §7.2.1). The scope may be longer than the source.
        """
        split = self.ipv4_rows
        low, high = (split, len(self)) if prefix.is_ipv6 else (0, split)
        net = self.net[low:high]
        at = int(np.searchsorted(net, np.uint64(prefix.net), side="right")) - 1
        scope = 0
        if at >= 0:
            row = low + at
            here = Prefix(int(self.net[row]), int(self.plen[row]))
            if prefix.net <= here.last:
                return row, int(self.scope[row])
            scope = common_prefix_length(prefix.net, here.last) + 1
        if at + 1 < high - low:
            scope = max(scope, common_prefix_length(prefix.net, int(net[at + 1])) + 1)
        return -1, scope

    @property
    def sets(self) -> tuple["Table", ...]:
        """All sets of answers; the first one is this table."""
        return (self, *self.further)

    def answers_of(self, service: str) -> "Table":
        """The set of answers for a service, by its DNS name."""
        number = self.meta.set_of(service)
        return self.further[number - 1] if number else self

    def with_meta(self, meta: TableMeta) -> "Table":
        """The same answers with other metadata of the same sets."""
        further = tuple(
            replace(one, meta=meta.of_set(number)) for number, one in enumerate(self.further, 1)
        )
        return replace(self, meta=meta, further=further)

    def ranked(self, row: int) -> list[str]:
        """POP ids of a row, best first; the default order for row -1."""
        if row < 0:
            return list(self.meta.default)
        return [self.pops[i] for i in self.pop[row].tolist() if i != NO_POP]


@dataclass(frozen=True, slots=True)
class Ranked:
    """The answers of one set to n prefixes, [n, 8] each; see `Table`."""

    pop: NDArray[np.uint16]
    share: NDArray[np.uint8]
    rtt: NDArray[np.uint16]


def build(
    meta: TableMeta,
    pops: tuple[str, ...],
    net: Net,
    plen: Plen,
    pop: NDArray[np.uint16],
    share: NDArray[np.uint8],
    rtt: NDArray[np.uint16],
    further: Sequence[Ranked] = (),
) -> Table:
    """A table from any prefixes, nested or not: disjoint, merged, sorted.

    `pop`, `share` and `rtt` are [n, 8], as are those of the `further` sets that `meta` names. The
    longest prefix wins; of equal ones the later. Where neighbours with equal POPs and shares, in
    all sets, merge, the RTT of the first stays.

    Raises:
        TableError: a row has no POP, an unknown POP, or shares that do not add up to 255; or there
            are more sets than a table holds.
    """
    _check_sets(meta, len(further))
    sets = (Ranked(pop, share, rtt), *further)
    for one in sets:
        _check_rows(pops, one.pop, one.share)
    columns = [c.astype(np.uint16) for one in sets for c in (one.pop, one.share)]
    answer = np.concatenate(columns, axis=1)
    parts = []
    for ipv6 in (False, True):
        rows = np.flatnonzero(((plen & np.uint8(IPV6_BIT)) != 0) == ipv6)
        ranges = merge(flatten(net[rows], plen[rows]), answer[rows])
        block_net, block_plen, owner = blocks(ranges, ipv6)
        parts.append((block_net, block_plen, rows[owner]))
    new_net, new_plen, owner = (np.concatenate([part[i] for part in parts]) for i in range(3))
    kept = [Ranked(one.pop[owner], one.share[owner], one.rtt[owner]) for one in sets]
    scope = new_plen.astype(np.uint8) & np.uint8(LENGTH_MASK)
    return of_sets(meta, pops, new_net, new_plen.astype(np.uint8), scope, kept)


def of_sets(
    meta: TableMeta,
    pops: tuple[str, ...],
    net: Net,
    plen: Plen,
    scope: NDArray[np.uint8],
    sets: Sequence[Ranked],
) -> Table:
    """The table of these sets over the same rows; nothing is checked."""
    first, *further = (
        Table(meta.of_set(number), pops, net, plen, one.pop, one.share, one.rtt, scope)
        for number, one in enumerate(sets)
    )
    return replace(first, further=tuple(further)) if further else first


def _check_sets(meta: TableMeta, further: int) -> None:
    if len(meta.further) != further or further >= SETS_MAX:
        raise TableError(
            f"{further} further sets of answers, {len(meta.further)} named; at most {SETS_MAX - 1}"
        )


def number_rows(rows: NDArray[np.uint16]) -> NDArray[np.int64]:
    """[n] for [n, width]: equal rows get equal numbers."""
    packed = np.ascontiguousarray(rows).view(f"V{rows.shape[1] * 2}").ravel()
    return np.unique(packed, return_inverse=True)[1].astype(np.int64)


def _check_rows(pops: tuple[str, ...], pop: NDArray[np.uint16], share: NDArray[np.uint8]) -> None:
    if len(pops) > POPS_MAX:
        raise TableError(f"{len(pops)} POPs; at most {POPS_MAX}")
    if not len(pop):
        return
    known = pop != NO_POP
    if not known[:, 0].all():
        raise TableError(f"row {int(np.argmin(known[:, 0]))} has no POP")
    if int(pop[known].max()) >= len(pops):
        raise TableError(f"POP index {int(pop[known].max())} of {len(pops)} POPs")
    if (known[:, 1:] & ~known[:, :-1]).any():
        raise TableError("a row has a POP behind an empty candidate")
    if share[~known].any():
        raise TableError("a share without a POP")
    total = share.sum(axis=1, dtype=np.int64)
    if (total != SHARE_WHOLE).any():
        bad = int(np.argmax(total != SHARE_WHOLE))
        raise TableError(f"row {bad}: shares add up to {int(total[bad])}, not {SHARE_WHOLE}")


def encode(table: Table, signer: Signer | None = None) -> bytes:
    """The bytes of a table, sealed when a signer is given; `decode` gives the table back."""
    meta = {"version": VERSION, "pops": table.pops, "meta": table.meta}
    schema = _schema(len(table.further), {"popsteer.table": msgspec.json.encode(meta)})
    ranked = [_to_arrow(getattr(one, name)) for one in table.further for name in _RANKED]
    arrays = [_to_arrow(getattr(table, name)) for name, _ in _COLUMNS] + ranked
    out = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(out, schema, options=options) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=schema))
    body: bytes = out.getvalue().to_pybytes()
    return body + _MAGIC + signer.sign(body) if signer else body


_WIDE = CANDIDATES_MAX
_RANKED = {
    "pop": pa.list_(pa.uint16(), _WIDE),
    "share": pa.list_(pa.uint8(), _WIDE),
    "rtt": pa.list_(pa.uint16(), _WIDE),
}
"""The columns of a set."""
_COLUMNS = [("net", pa.uint64()), ("plen", pa.uint8()), *_RANKED.items(), ("scope", pa.uint8())]


def _schema(further: int, metadata: dict[str, bytes] | None = None) -> Any:
    more = [
        (f"{n}.{number}", kind) for number in range(1, further + 1) for n, kind in _RANKED.items()
    ]
    return pa.schema([*_COLUMNS, *more], metadata=metadata)


def _to_arrow(column: NDArray[Any]) -> Any:
    if column.ndim == 1:
        return pa.array(column)
    return pa.FixedSizeListArray.from_arrays(pa.array(column.reshape(-1)), _WIDE)


def decode(data: bytes, verifier: Verifier | None = None) -> Table:
    """The table in the bytes; with a verifier only if its seal is good.

    Raises:
        TrustError: the seal is missing, by an unknown key, or wrong.
        TableError: truncated, of another version, or breaking an invariant of `Table`.
    """
    body, seal = _split(data)
    if verifier is not None:
        if not seal:
            raise TrustError("the table is not signed")
        verifier.verify(body, seal)
    try:
        # The system gets memory back at once when a table is let go; Arrow's own pool keeps it.
        with pa.ipc.open_stream(body, memory_pool=pa.system_memory_pool()) as reader:
            schema = reader.schema
            head = msgspec.json.decode((schema.metadata or {})[b"popsteer.table"], type=_Head)
            batch = reader.read_next_batch()
            batch.validate(full=True)
    except (pa.ArrowException, ValueError, OSError, StopIteration, KeyError) as error:
        raise TableError(f"not a whole table: {str(error)[:200]}") from None
    further = len(head.meta.further)
    if head.version != VERSION or not schema.equals(_schema(further)):
        raise TableError(f"a table of version {head.version}; this code reads {VERSION}")
    if any(column.null_count for column in batch.columns):
        raise TableError("nulls in a column")
    _check_sets(head.meta, further)
    columns = {name: _from_arrow(batch.column(name)) for name in schema.names}
    sets = [
        Ranked(*(columns[f"{name}.{number}" if number else name] for name in _RANKED))
        for number in range(further + 1)
    ]
    net, plen, scope = columns["net"], columns["plen"], columns["scope"]
    table = of_sets(head.meta, head.pops, net, plen, scope, sets)
    _check(table)
    return table


class _Head(msgspec.Struct):
    version: int
    pops: tuple[str, ...]
    meta: TableMeta


def _split(data: bytes) -> tuple[bytes, bytes]:
    if data[-_SEAL_BYTES : -_SEAL_BYTES + len(_MAGIC)] == _MAGIC:
        return data[:-_SEAL_BYTES], data[-_SEAL_BYTES + len(_MAGIC) :]
    return data, b""


def _from_arrow(column: Any) -> NDArray[Any]:
    if isinstance(column, pa.FixedSizeListArray):
        flat: NDArray[Any] = column.flatten().to_numpy()
        return flat.reshape(-1, _WIDE)
    array: NDArray[Any] = column.to_numpy()
    return array


def _check(table: Table) -> None:
    """The invariants that every reader relies on."""
    for one in table.sets:
        _check_rows(table.pops, one.pop, one.share)
    split = table.ipv4_rows
    if (table.plen[:split] & np.uint8(IPV6_BIT)).any() or not (
        table.plen[split:] & np.uint8(IPV6_BIT)
    ).all():
        raise TableError("families are mixed")
    length = table.plen & np.uint8(LENGTH_MASK)
    if (length > 64).any() or (length[:split] > 32).any():
        raise TableError("a prefix length is out of bounds")
    if (table.net & last_of(np.zeros_like(table.net), table.plen)).any():
        raise TableError("host bits are set")
    if (table.scope > 64).any() or (table.scope[:split] > 32).any():
        raise TableError("an ECS scope is out of bounds")
    for rows in (slice(0, split), slice(split, None)):
        net, last = table.net[rows], last_of(table.net[rows], table.plen[rows])
        if (net[1:] <= last[:-1]).any():
            raise TableError("prefixes overlap or are not sorted")


def renumber(table: Table, generation: int, created_ms: int, note: str) -> Table:
    """The same answers as a new generation, as a rollback publishes them."""
    meta = table.meta
    return table.with_meta(
        msgspec.structs.replace(
            meta,
            generation=generation,
            parent=meta.generation,
            created_ms=created_ms,
            note=note,
        )
    )
