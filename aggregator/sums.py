"""What several partials of one kind say together, whatever shards and windows. Pure.

Every column of a partial is a key, a count, a sum or an extreme (`aggregator.partials`), so the
rows of several partials become one set by a group-by, and the result can be merged again.
"""

import hashlib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from popsteer.errors import StoreError

EVENT = "event_window_ms"
_COUNTED = ("count", "queries", "bits", "sum")
_HIGHEST = ("max_us", "max", "last_ms")
_LEFT_OUT = ("last",)
"""Of several last values the one at `last_ms`; a subject has one source, so it is never merged."""


def read(body: bytes) -> pa.Table:
    """The rows of a partial or of merged ones, with names in place of dictionary indexes.

    Raises:
        StoreError: not such an object.
    """
    try:
        table = pq.read_table(pa.BufferReader(body), use_threads=False)
        fields = [pa.field(f.name, _type_of(f)) for f in table.schema if f.name not in _LEFT_OUT]
        names = [field.name for field in fields]
        return table.replace_schema_metadata(None).select(names).cast(pa.schema(fields))
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise StoreError(f"not a partial: {error}") from None


def _type_of(field: pa.Field) -> pa.DataType:
    """Counts so wide that their sums fit."""
    if pa.types.is_dictionary(field.type):
        return pa.string()
    return pa.uint64() if field.name == "count" else field.type


def merged(tables: Sequence[pa.Table], resolution_ms: int = 1) -> pa.Table:
    """Each key once, in the order of the keys; event windows are rounded down to a resolution."""
    whole = pa.concat_tables(tables)
    place = whole.column_names.index(EVENT)
    coarse = pc.multiply(pc.divide(whole.column(EVENT), resolution_ms), resolution_ms)
    whole = whole.set_column(place, EVENT, coarse)
    values = [(n, "sum") for n in _COUNTED] + [(n, "max") for n in _HIGHEST]
    values = [(name, how) for name, how in values if name in whole.column_names]
    taken = {name for name, _ in values}
    keys = [name for name in whole.column_names if name not in taken]
    # One thread: floats are added in the order of the rows.
    grouped = whole.group_by(keys, use_threads=False).aggregate(values)
    grouped = grouped.rename_columns([*keys, *(name for name, _ in values)])
    # In the first key's place comes the prefix or subject, so that its rows lie together.
    order = [*(k for k in keys if k != EVENT), EVENT]
    return grouped.sort_by([(name, "ascending") for name in order]).combine_chunks()


def write(table: pa.Table) -> bytes:
    """The bytes of merged rows, Parquet with zstd."""
    body = pa.BufferOutputStream()
    pq.write_table(table, body, compression="zstd", row_group_size=1 << 17)
    return bytes(body.getvalue().to_pybytes())


def merged_digest(bodies: Sequence[bytes]) -> bytes:
    """SHA-256 of what partials say together."""
    digest = hashlib.sha256()
    table = merged([read(body) for body in bodies])
    for name in sorted(table.column_names):
        column = table.column(name)
        digest.update(name.encode() + b"\0")
        if pa.types.is_string(column.type):
            digest.update("\0".join(column.to_pylist()).encode())
        else:
            digest.update(column.to_numpy().tobytes())
    return digest.digest()
