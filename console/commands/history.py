"""`popsteer history | query`: what was measured, by the minute, the hour or in SQL."""

import json as jsons
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console

from console.archive import ask, database, kinds_in
from console.known import known_pop
from console.running import find_config
from console.table_text import grid
from console.units import duration_ms, rate_text
from popsteer import clock
from popsteer.config import Config
from popsteer.names import Prefix
from popsteer.samples import Kind
from popsteer.store import s3_store

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Since = Annotated[str, Parameter(help="How far back: 10m, 1h, 7d.")]
Json = Annotated[bool, Parameter(help="Print JSON.")]
File = Annotated[Path | None, Parameter(name="--config", help="Of the running system.")]

STEPS_S = (10, 60, 300, 900, 3_600, 6 * 3_600, 86_400)
LINES_MAX = 30
PIPE_WIDTH = 400
POPS_MAX = 6
"""So many POPs of a prefix get a column; JSON has all."""

_OF_POP = """
WITH steps AS (
    SELECT event_window_ms // $step_ms * $step_ms AS step_ms, *
    FROM rtt WHERE pop = $pop),
measured AS (
    SELECT step_ms, sum(count) AS samples,
        sum(count) FILTER (WHERE lost) / sum(count) AS loss
    FROM steps GROUP BY step_ms),
ranked AS (
    SELECT step_ms, rtt_ms,
        sum(count) OVER (PARTITION BY step_ms ORDER BY rtt_ms ROWS UNBOUNDED PRECEDING) AS seen,
        sum(count) OVER (PARTITION BY step_ms) AS whole
    FROM steps WHERE NOT lost),
quantiles AS (
    SELECT step_ms, min(rtt_ms) FILTER (WHERE seen >= 0.5 * whole) AS p50_ms,
        min(rtt_ms) FILTER (WHERE seen >= 0.95 * whole) AS p95_ms
    FROM ranked GROUP BY step_ms),
demanded AS (
    SELECT event_window_ms // $step_ms * $step_ms AS step_ms, sum(queries) AS queries
    FROM demand WHERE pop = $pop GROUP BY 1),
loaded AS (
    SELECT event_window_ms // $step_ms * $step_ms AS step_ms, avg(mean) AS load_bps
    FROM signal WHERE subject = $pop AND signal = 'load_bps' GROUP BY 1)
SELECT moment(step_ms) AS time, coalesce(samples, 0)::BIGINT AS samples,
    p50_ms, p95_ms, coalesce(loss, 0) AS loss, coalesce(queries, 0)::BIGINT AS queries, load_bps
FROM measured FULL JOIN quantiles USING (step_ms) FULL JOIN demanded USING (step_ms)
    FULL JOIN loaded USING (step_ms)
ORDER BY time"""

_OF_PREFIX = """
WITH steps AS (
    SELECT event_window_ms // $step_ms * $step_ms AS step_ms, *
    FROM rtt WHERE (plen & 128) = $family AND net BETWEEN $first AND $last
        AND (plen & 127) >= $length),
ranked AS (
    SELECT step_ms, pop, rtt_ms, lost, count,
        sum(count) OVER (PARTITION BY step_ms, pop ORDER BY lost, rtt_ms
            ROWS UNBOUNDED PRECEDING) AS seen,
        sum(count) OVER (PARTITION BY step_ms, pop) AS whole
    FROM steps)
SELECT moment(step_ms) AS time, pop, sum(count)::BIGINT AS samples,
    min(rtt_ms) FILTER (WHERE seen >= 0.5 * whole) AS p50_ms,
    coalesce(sum(count) FILTER (WHERE lost), 0) / sum(count) AS loss
FROM ranked GROUP BY step_ms, pop ORDER BY time, pop"""


def history(
    subject: Annotated[str, Parameter(help="A prefix or a POP.")],
    /,
    *,
    since: Since = "1h",
    json: Json = False,
    file: File = None,
) -> None:
    """Show what was measured of a prefix or a POP."""
    config = find_config(file)
    now_ms = clock.now_ms()
    since_ms = now_ms - duration_ms(since, "--since")
    is_prefix = "/" in subject or ":" in subject or subject.count(".") == 3
    if not is_prefix:
        known_pop(config, subject)
    kinds = (Kind.RTT,) if is_prefix else tuple(Kind)
    base = _read(config, since_ms, now_ms, kinds)
    step_ms = _step_ms(now_ms - since_ms)
    rows = _of_prefix(base, subject, step_ms) if is_prefix else _of_pop(base, subject, step_ms)
    if json:
        print(jsons.dumps(rows, indent=2, default=_plain))
    elif not rows:
        print(f"nothing was measured of {subject} in the last {since}")
    elif is_prefix:
        _print_prefix(rows)
    else:
        _print_pop(rows)


def query(
    sql: Annotated[str, Parameter(help="SQL over the tables rtt, demand and signal.")],
    /,
    *,
    since: Since = "1h",
    json: Json = False,
    file: File = None,
) -> None:
    """Ask in SQL what was measured: tables rtt, demand and signal.

    rtt: time, prefix, pop, method, rtt_ms (NULL when lost), count, lost, max_ms.
    demand: time, prefix, pop, queries, bits. signal: time, subject, signal, mean, max, last.
    """
    config = find_config(file)
    now_ms = clock.now_ms()
    base = _read(config, now_ms - duration_ms(since, "--since"), now_ms, kinds_in(sql))
    names, rows = ask(base, sql)
    if json:
        documents = [dict(zip(names, row, strict=True)) for row in rows]
        print(jsons.dumps(documents, indent=2, default=_plain))
        return
    lines = grid(*names)
    for row in rows:
        lines.add_row(*(_cell(value) for value in row))
    screen = Console()
    # A pipe has no width: whoever reads it wants whole cells.
    screen.print(lines, width=None if screen.is_terminal else PIPE_WIDTH, crop=screen.is_terminal)


def _read(
    config: Config, since_ms: int, now_ms: int, kinds: tuple[Kind, ...]
) -> "DuckDBPyConnection":
    """The database of a command; a terminal sees that it is being read."""
    with Console(stderr=True).status("reading what was measured"):
        return database(s3_store(config.aws), since_ms, now_ms, kinds)


def _step_ms(span_ms: int) -> int:
    """The finest step that fits on a screen."""
    fits = (step for step in STEPS_S if span_ms <= step * 1_000 * LINES_MAX)
    return next(fits, STEPS_S[-1]) * 1_000


def _of_pop(base: "DuckDBPyConnection", pop: str, step_ms: int) -> list[dict[str, object]]:
    return _documents(base, _OF_POP, {"pop": pop}, step_ms)


def _of_prefix(base: "DuckDBPyConnection", text: str, step_ms: int) -> list[dict[str, object]]:
    prefix = Prefix.parse(text) if "/" in text else Prefix.of_address(text)
    row = base.execute(
        "SELECT max(plen & 127) FROM prefixes WHERE (plen & 128) = $family AND net = $net",
        {"family": prefix.plen & 128, "net": prefix.net},
    ).fetchone()
    if "/" not in text or row is None or row[0] is None:
        prefix = _covering(base, prefix)
    bounds = {
        "family": prefix.plen & 128,
        "first": prefix.net,
        "last": prefix.last,
        "length": prefix.length,
    }
    return _documents(base, _OF_PREFIX, bounds, step_ms)


def _covering(base: "DuckDBPyConnection", prefix: Prefix) -> Prefix:
    """The longest measured prefix that holds it; itself where there is none."""
    measured = base.execute("SELECT net, plen FROM prefixes").fetchall()
    holders = [Prefix(net, plen) for net, plen in measured]
    holders = [one for one in holders if one.contains(prefix)]
    return max(holders, key=lambda one: one.length, default=prefix)


def _documents(
    base: "DuckDBPyConnection", sql: str, parameters: Mapping[str, object], step_ms: int
) -> list[dict[str, object]]:
    answer = base.execute(sql, {**parameters, "step_ms": step_ms})
    names = [column[0] for column in answer.description or []]
    return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]


def _print_pop(rows: list[dict[str, object]]) -> None:
    lines = grid("time", "samples", "p50 ms", "p95 ms", "loss", "queries", "load")
    for column in lines.columns[1:]:
        column.justify = "right"
    for row in rows:
        load = row["load_bps"]
        lines.add_row(
            _clock(row["time"]),
            f"{row['samples']:,}",
            _number(row["p50_ms"]),
            _number(row["p95_ms"]),
            f"{row['loss']:.1%}",
            f"{row['queries']:,}",
            rate_text(load) if isinstance(load, float) else "",
        )
    Console().print(lines)


def _print_prefix(rows: list[dict[str, object]]) -> None:
    """Times down, POPs across, the nearest first."""
    best: dict[str, float] = {}
    cells: dict[object, dict[str, str]] = {}
    for row in rows:
        pop, p50 = str(row["pop"]), row["p50_ms"]
        if isinstance(p50, float):
            best[pop] = min(best.get(pop, p50), p50)
        cells.setdefault(row["time"], {})[pop] = _number(p50) if p50 is not None else "lost"
    pops = sorted(best, key=lambda pop: best[pop])[:POPS_MAX]
    lines = grid("time", *(f"{pop} ms" for pop in pops))
    for column in lines.columns[1:]:
        column.justify = "right"
    for time, line in cells.items():
        lines.add_row(_clock(time), *(line.get(pop, "") for pop in pops))
    Console().print(lines)


def _number(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else ""


def _clock(time: object) -> str:
    assert isinstance(time, datetime)
    return time.strftime("%m-%d %H:%M:%S")


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _plain(value: object) -> str:
    """Times in JSON."""
    return f"{value.isoformat()}Z" if isinstance(value, datetime) else str(value)
