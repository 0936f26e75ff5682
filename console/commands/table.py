"""`popsteer table …`: the tables in the store and in files, for people."""

import json as jsons
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter
from rich.console import Console

from console import published
from console import table_text as text
from console.owner import NO_REASON, owner
from console.running import find_config, trusted
from console.table_csv import read as read_csv
from popsteer import clock, signing, table_log
from popsteer import table as tables
from popsteer.config import Config
from popsteer.errors import ConfigError, SetupError, TableError, TrustError
from popsteer.names import dns_name
from popsteer.store import s3_store
from popsteer.table import Table, TableMeta
from popsteer.table_diff import diff, moves
from resolver.kept import keep

app = App(name="table", help="List, show, compare, verify, compile, log and roll back tables.")

File = Annotated[Path | None, Parameter(name="--config", help="Of the running system.")]
Json = Annotated[bool, Parameter(help="Print JSON.")]
Which = Annotated[str, Parameter(help="A generation, `current`, or a file.")]
Name = Annotated[str, Parameter(help="A service that may have answers of its own.")]
Rows = Annotated[int, Parameter(help="How many rows to print; 0 prints all.")]


@app.command(name="list")
def list_(*, rows: Rows = 20, json: Json = False, file: File = None) -> None:
    """List the newest tables of the store."""
    config = find_config(file)
    store = s3_store(config.aws)
    current = published.pointer(store)
    newest = published.generations(store)[-rows:] if rows else published.generations(store)
    metas = [_stored(config, generation).meta for generation in reversed(newest)]
    in_force = current.generation if current else 0
    if json:
        _print_json([text.meta_document(m) | {"current": m.generation == in_force} for m in metas])
        return
    grid = text.grid("", "generation", "age", "parent", "policy", "note")
    for meta in metas:
        mark = "→" if meta.generation == in_force else ""
        grid.add_row(
            mark,
            str(meta.generation),
            text.age(meta, clock.now_ms()),
            str(meta.parent),
            meta.policy,
            meta.note,
        )
    Console().print(grid if metas else "no table was published yet")


@app.command
def show(
    which: Which,
    /,
    *,
    name: Name = "",
    rows: Rows = 20,
    json: Json = False,
    file: File = None,
) -> None:
    """Show a table: where it comes from, what each POP gets, its rows."""
    table = _find(which, file).answers_of(dns_name(name))
    some = range(len(table) if rows == 0 else min(rows, len(table)))
    if json:
        answers = [text.row_document(table, i) for i in some]
        meta = text.meta_document(table.meta)
        _print_json({"meta": meta, "rows": len(table), "answers": answers})
        return
    screen = Console()
    screen.print(text.head_text(table, clock.now_ms()), highlight=False)
    screen.print(text.pop_grid(table))
    grid = text.grid("prefix", "scope", "answer", "then")
    for i in some:
        scope = f"/{int(table.scope[i])}"
        grid.add_row(str(text.prefix_of(table, i)), scope, *text.answer_text(table, i))
    screen.print(grid)
    if len(table) > len(some):
        screen.print(f"… and {len(table) - len(some):,} rows more (--rows 0 prints all)")


@app.command(name="diff")
def diff_(
    old: Which,
    new: Which,
    /,
    *,
    name: Name = "",
    rows: Rows = 20,
    json: Json = False,
    file: File = None,
) -> None:
    """Compare two tables: which prefixes are answered otherwise, from where to where."""
    before, after = (_find(one, file).answers_of(dns_name(name)) for one in (old, new))
    changed = diff(before, after)
    some = range(len(changed) if rows == 0 else min(rows, len(changed)))
    listed = [text.change_document(changed, i) for i in some]
    if json:
        moved = [move._asdict() for move in moves(changed)]
        _print_json({"changed": len(changed), "moves": moved, "prefixes": listed})
        return
    screen = Console()
    if not len(changed):
        screen.print("the same answers everywhere")
        return
    grid = text.grid("from", "to", "prefixes")
    for move in moves(changed)[:20]:
        grid.add_row(move.before or "(nobody)", move.after or "(nobody)", f"{move.prefixes:,}")
    screen.print(f"{len(changed):,} prefixes changed", highlight=False)
    screen.print(grid)
    grid = text.grid("prefix", "before", "after")
    for one in listed:
        grid.add_row(one["prefix"], one["before"], one["after"])
    screen.print(grid)
    if len(changed) > len(some):
        screen.print(f"… and {len(changed) - len(some):,} more (--rows 0 prints all)")


@app.command
def log(*, rows: Rows = 20, json: Json = False, file: File = None) -> None:
    """Show what became of tables: published, refused and why, rolled back."""
    entries = table_log.newest(s3_store(find_config(file).aws), rows, clock.now_ms())
    if json:
        _print_json(msgspec.to_builtins(entries))
        return
    grid = text.grid("time", "", "generation", "rows", "note")
    for entry in entries:
        at = datetime.fromtimestamp(entry.at_ms / clock.SECOND_MS, UTC)
        words = ": ".join(filter(None, (entry.rule, entry.reason))) or entry.note
        grid.add_row(
            f"{at:%Y-%m-%d %H:%M:%S}", entry.outcome, str(entry.generation), f"{entry.rows}", words
        )
    Console().print(grid if entries else "no table was published yet")


@app.command
def rollback(
    generation: int,
    /,
    *,
    why: Annotated[str, Parameter(help="The reason, for those who find it later.")] = NO_REASON,
    file: File = None,
) -> None:
    """Publish the answers of an older generation again, as a new one."""
    config = find_config(file)
    if not config.trust.signing_key:
        raise ConfigError("trust.signing_key is not set; a rollback must be signed")
    signer = signing.load_signer(config.path(config.trust.signing_key))
    new = published.rollback(
        s3_store(config.aws),
        generation,
        signer,
        trusted(config),
        clock.now_ms(),
        f"to {generation} by {owner()}: {why}",
    )
    print(f"generation {new.meta.generation} answers as {generation} did")
    print("The planner goes on from it; `popsteer freeze` makes it stay.")


@app.command
def verify(path: Path, /, *, file: File = None) -> None:
    """Check a table file: whole, valid, and signed by a trusted key where keys are configured."""
    try:
        keys = trusted(find_config(file))
    except ConfigError:
        if file is not None:
            raise
        keys = None
    table = _of_file(path, keys)
    seal = "signed by a trusted key" if keys else "no keys configured, so the seal is unchecked"
    print(f"{path}: generation {table.meta.generation}, {len(table):,} rows; {seal}")


@app.command(name="compile")
def compile_(
    source: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="The table file.")],
    generation: Annotated[int, Parameter(help="Its generation.")] = 1,
    default: Annotated[str, Parameter(help="POPs for everybody else: fra1,lon1.")] = "",
    key: Annotated[Path | None, Parameter(help="Private key that signs it.")] = None,
) -> None:
    """Compile CSV into a table file: prefix,pop[,pop...] or prefix,pop=share;pop=share."""
    signer = signing.load_signer(key) if key else None
    meta = TableMeta(
        generation=generation,
        created_ms=clock.now_ms(),
        policy="csv",
        default=tuple(name.strip() for name in default.split(",") if name.strip()),
    )
    table = read_csv(source, meta)
    try:
        if output.is_file() or not output.exists():
            # Whole or not at all: a DNS node may be watching the file.
            keep(output.resolve(), tables.encode(table, signer))
        else:
            output.write_bytes(tables.encode(table, signer))
    except OSError as error:
        raise SetupError(f"{output}: {error.strerror}") from None
    print(f"{output}: {len(table):,} rows, {len(table.pops)} POPs")


def _print_json(document: object) -> None:
    print(jsons.dumps(document, indent=2))


def _find(which: str, file: Path | None) -> Table:
    if Path(which).is_file():
        return _of_file(Path(which), None)
    config = find_config(file)
    if which == "current":
        current = published.pointer(s3_store(config.aws))
        if current is None:
            raise ConfigError("no table was published yet")
        return _stored(config, current.generation)
    if not which.isdigit():
        raise ConfigError(f"{which!r} is no generation, no file and not `current`")
    return _stored(config, int(which))


def _stored(config: Config, generation: int) -> Table:
    return published.read_table(s3_store(config.aws), tables.key(generation), trusted(config))


def _of_file(path: Path, keys: signing.Verifier | None) -> Table:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    try:
        return tables.decode(data, keys)
    except (TableError, TrustError) as error:
        raise type(error)(f"{path}: {error}") from None
