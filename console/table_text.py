"""Tables in words: rows, answers, metadata and changes as people and JSON readers see them."""

from typing import Any

import msgspec
import numpy as np
from rich.table import Table as Grid

from console.units import duration_text
from popsteer import clock
from popsteer.names import Prefix
from popsteer.table import NO_POP, NO_RTT, SHARE_WHOLE, Table, TableMeta
from popsteer.table_diff import TableDiff

Document = dict[str, Any]
"""JSON."""


def grid(*headers: str) -> Grid:
    """An empty grid without lines."""
    return Grid(*headers, box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))


def prefix_of(table: Table, row: int) -> Prefix:
    """The prefix of a row."""
    return Prefix(int(table.net[row]), int(table.plen[row]))


def age(meta: TableMeta, now_ms: int) -> str:
    """How long ago a table was made; files compiled by hand may not say."""
    return duration_text(clock.age_s(meta.created_ms, now_ms)) if meta.created_ms else "-"


def meta_document(meta: TableMeta) -> Document:
    """Metadata as JSON."""
    document: Document = msgspec.to_builtins(meta)
    return document


def row_document(table: Table, row: int) -> Document:
    """One row as JSON."""
    candidates = []
    for pop, share, rtt in _candidates(table, row):
        part = round(share / SHARE_WHOLE, 4)
        candidates.append({"pop": pop, "share": part, "rtt_ms": rtt})
    scope = int(table.scope[row])
    return {"prefix": str(prefix_of(table, row)), "scope": scope, "candidates": candidates}


def answer_text(table: Table, row: int) -> tuple[str, str]:
    """Who gets a share, with RTT where it is known, and who follows when they cannot serve."""
    if row < 0:
        return ("default", " ".join(table.meta.default)) if table.meta.default else ("nobody", "")
    takers, rest = [], []
    for pop, share, rtt in _candidates(table, row):
        if not share:
            rest.append(pop)
            continue
        part = "" if share == SHARE_WHOLE else f" {share / SHARE_WHOLE:.0%}"
        takers.append(f"{pop}{part}" + (f" {rtt:.1f} ms" if rtt is not None else ""))
    return ", ".join(takers), " ".join(rest)


def change_document(changed: TableDiff, index: int) -> Document:
    """One changed prefix as JSON."""
    prefix = Prefix(int(changed.net[index]), int(changed.plen[index]))
    sides = (changed.old, changed.before), (changed.new, changed.after)
    before, after = (_one_line(table, int(rows[index])) for table, rows in sides)
    return {"prefix": str(prefix), "before": before, "after": after}


def head_text(table: Table, now_ms: int) -> str:
    """Where a table comes from, on a few lines."""
    meta = table.meta
    first, last = meta.window_first_ms, meta.window_last_ms
    windows = f"windows of {duration_text((last - first) / 1_000)}" if last else "no windows"
    note = f", {meta.note}" if meta.note else ""
    default = " ".join(meta.default[:12]) or "none"
    own = [f"; {', '.join(one.services)} by {one.policy}" for one in meta.further]
    return (
        f"generation {meta.generation} (parent {meta.parent}), made {age(meta, now_ms)} ago by "
        f"policy {meta.policy or 'unknown'}{''.join(own)} {meta.code}, from {windows}{note}\n"
        f"{len(table):,} rows ({table.ipv4_rows:,} IPv4), {len(table.pops)} POPs; "
        f"default order: {default}"
    )


def pop_grid(table: Table) -> Grid:
    """How many rows each POP is first in, and how many it has a share of."""
    firsts = np.bincount(table.pop[:, 0], minlength=len(table.pops))
    shared = np.bincount(table.pop[table.share > 0], minlength=len(table.pops))
    lines = grid("POP", "first in", "part of rows", "has a share in")
    for i in np.argsort(-firsts, kind="stable")[:20].tolist():
        part = firsts[i] / max(1, len(table))
        lines.add_row(table.pops[i], f"{firsts[i]:,}", f"{part:.1%}", f"{shared[i]:,}")
    return lines


def _one_line(table: Table, row: int) -> str:
    taker, then = answer_text(table, row)
    return f"{taker} → {then}" if then else taker


def _candidates(table: Table, row: int) -> list[tuple[str, int, float | None]]:
    columns = (table.pop[row].tolist(), table.share[row].tolist(), table.rtt[row].tolist())
    return [
        (table.pops[pop], share, None if rtt == NO_RTT else rtt / 10)
        for pop, share, rtt in zip(*columns, strict=True)
        if pop != NO_POP
    ]
