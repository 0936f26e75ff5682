"""What the partials of one window say together, whatever shards they came from. Pure.

Every column of a partial is a key, a count, a sum or an extreme (`aggregator.partials`), so the
rows of several partials become one set by a group-by.
"""

import hashlib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

_COUNTED = ("count", "queries", "bits", "sum")
_HIGHEST = ("max_us", "max", "last_ms")
_LEFT_OUT = ("last",)
"""Of several last values the one at `last_ms`; a subject has one source, so it is never merged."""


def merged(bodies: Sequence[bytes]) -> pa.Table:
    """The rows of partials of one kind, each key once, in the order of the keys."""
    tables = [pq.read_table(pa.BufferReader(body), use_threads=False) for body in bodies]
    whole = pa.concat_tables([_plain(table) for table in tables])
    values = [(n, "sum") for n in _COUNTED] + [(n, "max") for n in _HIGHEST]
    values = [(name, how) for name, how in values if name in whole.column_names]
    taken = {name for name, _ in values} | set(_LEFT_OUT)
    keys = [name for name in whole.column_names if name not in taken]
    # One thread: floats are added in the order of the rows.
    grouped = whole.group_by(keys, use_threads=False).aggregate(values)
    return grouped.sort_by([(name, "ascending") for name in keys]).combine_chunks()


def merged_digest(bodies: Sequence[bytes]) -> bytes:
    """SHA-256 of `merged`."""
    digest = hashlib.sha256()
    table = merged(bodies)
    for name in sorted(table.column_names):
        column = table.column(name)
        digest.update(name.encode() + b"\0")
        if pa.types.is_string(column.type):
            digest.update("\0".join(column.to_pylist()).encode())
        else:
            digest.update(column.to_numpy().tobytes())
    return digest.digest()


def _plain(table: pa.Table) -> pa.Table:
    """Names in place of indexes: each partial has a dictionary of its own."""
    fields = [
        pa.field(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type)
        for f in table.schema
    ]
    return table.replace_schema_metadata(None).cast(pa.schema(fields))
