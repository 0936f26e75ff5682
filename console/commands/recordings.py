"""`popsteer record | replay DIR`: keep what comes through the streams, and run it again."""

import json as jsons
import logging
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from console.running import find_config_file
from console.units import duration_ms
from popsteer import clock
from popsteer.config_file import load
from popsteer.errors import ConfigError
from popsteer.store import s3_store
from popsteer.telemetry import configure

Folder = Annotated[Path, Parameter(help="Folder of the recording.")]


def record(
    folder: Folder,
    /,
    *,
    since: Annotated[str, Parameter(help="Also what arrived so long ago: 10m, 1h.")] = "",
    duration: Annotated[str, Parameter(name="--for", help="How long: 90s, 10m.")] = "",
    file: Annotated[Path | None, Parameter(name="--config", help="Of the running system.")] = None,
) -> None:
    """Keep what comes through both streams, with configuration, targets and orders."""
    from aggregator.record import record as keep

    if not since and not duration:
        raise ConfigError("say what to record: --since 10m for the past, --for 10m from now on")
    path = find_config_file(file)
    config = load(path)
    since_ms = duration_ms(since, "--since") if since else 0
    for_ms = duration_ms(duration, "--for") if duration else 0
    records = 0
    with _bar() as bar:
        task = bar.add_task("recording", total=1.0)
        for share, records in keep(
            config, path, s3_store(config.aws), folder, since_ms, for_ms, clock.now_ms
        ):
            bar.update(task, completed=share, description=f"recording: {records:,} records")
    print(f"recorded {records:,} records in {folder}; run them again: popsteer replay {folder}")


def replay(
    folder: Folder,
    /,
    *,
    shards: Annotated[
        int, Parameter(help="Spread the sources over so many.", validator=Number(gte=1, lte=500))
    ] = 1,
    json: Annotated[bool, Parameter(help="Print JSON.")] = False,
) -> None:
    """Run a recording through the same fold, merge and planner: always the same bytes."""
    from aggregator.replay import replay as again

    # What the planner has to say of each window would bury the result.
    configure("replay", logging.ERROR)
    with nullcontext() if json else _bar() as bar:
        task = bar.add_task("replaying", total=1.0) if bar else None

        def show(share: float) -> None:
            if bar and task is not None:
                bar.update(task, completed=share)

        outcome = again(folder, shards, show)
    document = msgspec.to_builtins(outcome)
    if json:
        print(jsons.dumps(document, indent=2))
        return
    for name, value in document.items():
        if name != "table_sha256":
            print(f"{name.replace('_', ' '):<16} {_text(value)}")
    print(f"{'table sha256':<16} {outcome.table_sha256}")


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {count}" for key, count in value.items()) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value) or "-"


def _bar() -> AbstractContextManager[Progress]:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
