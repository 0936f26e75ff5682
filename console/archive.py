"""The archive as SQL tables, in memory: `rtt`, `demand` and `signal`, for DuckDB.

Columns as people want them: `time`, `prefix` as text, `pop`, RTT in milliseconds. What they rest
on (`net`, `plen`, `bucket`) is there too, so that filters and joins are cheap.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from aggregator.archive import recall
from aggregator.histogram import bucket_value_us
from popsteer.errors import ConfigError
from popsteer.names import Prefix
from popsteer.samples import Kind, Method, Signal
from popsteer.store import ObjectStore

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_KEYED = [("event_window_ms", pa.int64()), ("net", pa.uint64()), ("plen", pa.uint8())]
_EMPTY = {
    Kind.RTT: [
        *_KEYED,
        ("pop", pa.string()),
        ("method", pa.uint8()),
        ("bucket", pa.int16()),
        ("count", pa.uint64()),
        ("max_us", pa.uint32()),
    ],
    Kind.DEMAND: [
        *_KEYED,
        ("pop", pa.string()),
        ("queries", pa.uint64()),
        ("bits", pa.float64()),
    ],
    Kind.SIGNAL: [
        ("event_window_ms", pa.int64()),
        ("subject", pa.string()),
        ("signal", pa.uint8()),
        ("count", pa.uint64()),
        ("sum", pa.float64()),
        ("max", pa.float64()),
        ("last_ms", pa.int64()),
    ],
}
_TIME = "CREATE MACRO moment(ms) AS epoch_ms(ms::BIGINT)"
_VIEWS = {
    Kind.RTT: """
        CREATE VIEW rtt AS SELECT moment(event_window_ms) AS time, p.prefix, pop, m.name AS method,
            b.rtt_ms, count, b.rtt_ms IS NULL AS lost, max_us / 1000.0 AS max_ms,
            r.net, r.plen, r.bucket, event_window_ms
        FROM rtt_rows r JOIN prefixes p USING (net, plen) JOIN buckets b USING (bucket)
            JOIN methods m USING (method)""",
    Kind.DEMAND: """
        CREATE VIEW demand AS SELECT moment(event_window_ms) AS time, p.prefix, pop, queries, bits,
            d.net, d.plen, event_window_ms
        FROM demand_rows d JOIN prefixes p USING (net, plen)""",
    Kind.SIGNAL: """
        CREATE VIEW signal AS SELECT moment(event_window_ms) AS time, subject, s.name AS signal,
            sum / count AS mean, max, count, moment(last_ms) AS last,
            event_window_ms
        FROM signal_rows JOIN signals s USING (signal)""",
}


def database(
    store: ObjectStore, since_ms: int, now_ms: int, kinds: Collection[Kind] = tuple(Kind)
) -> "DuckDBPyConnection":
    """A database that holds what was measured from `since_ms` on, and cannot reach anything else.

    Kinds that are not asked for are not read: their tables are empty.

    Raises:
        StoreError: the store is away.
    """
    import duckdb

    base = duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"})
    found = {kind: recall(store, kind, since_ms, now_ms) for kind in kinds}
    rows = {kind: found.get(kind) or pa.schema(_EMPTY[kind]).empty_table() for kind in Kind}
    for kind, table in rows.items():
        base.register(f"{kind.value}_rows", table)
    base.register("prefixes", _prefixes(rows[Kind.RTT], rows[Kind.DEMAND]))
    base.register("buckets", _buckets(rows[Kind.RTT]))
    base.register("methods", _names("method", Method))
    base.register("signals", _names("signal", Signal))
    base.execute(_TIME)
    for view in _VIEWS.values():
        base.execute(view)
    # What people type may read these tables and nothing else: no files, no network.
    base.execute("SET enable_external_access = false")
    base.execute("SET lock_configuration = true")
    return base


def kinds_in(sql: str) -> tuple[Kind, ...]:
    """The kinds that a query can be about: those that it names."""
    return tuple(kind for kind in Kind if kind.value in sql.lower())


def _prefixes(*tables: pa.Table) -> pa.Table:
    """Every prefix once, with its text."""
    pairs = pa.concat_tables([table.select(["net", "plen"]) for table in tables])
    once = pairs.group_by(["net", "plen"]).aggregate([])
    net, plen = once.column("net").to_pylist(), once.column("plen").to_pylist()
    text = [str(Prefix(n, p)) for n, p in zip(net, plen, strict=True)]
    return once.append_column("prefix", pa.array(text, pa.string()))


def _buckets(rows: pa.Table) -> pa.Table:
    """Every bucket in use with the RTT that stands for it; NULL is lost."""
    bucket = np.unique(rows.column("bucket").to_numpy())
    rtt_ms = bucket_value_us(bucket) / 1e3
    return pa.table(
        {
            "bucket": pa.array(bucket, pa.int16()),
            "rtt_ms": pa.array(rtt_ms, pa.float64(), from_pandas=True),
        }
    )


def _names(column: str, names: type[Method] | type[Signal]) -> pa.Table:
    return pa.table(
        {
            column: pa.array([int(one) for one in names], pa.uint8()),
            "name": [one.name.lower() for one in names],
        }
    )


def ask(base: "DuckDBPyConnection", sql: str) -> tuple[list[str], list[tuple[object, ...]]]:
    """Column names and rows of a query.

    Raises:
        ConfigError: the SQL cannot be run.
    """
    import duckdb

    try:
        answer = base.execute(sql)
    except duckdb.Error as error:
        raise ConfigError(f"SQL: {str(error).splitlines()[0]}") from None
    return [column[0] for column in answer.description or []], answer.fetchall()
