"""`popsteer up | aggregate | plan | serve | console`: start a process and stay in it."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from msgspec.structs import replace

from console.running import DEFAULT_CONFIG, find_config
from popsteer.config_file import load


def up(
    *,
    pops: int | None = None,
    prefixes: int | None = None,
    world: Path | None = None,
    services: Path | None = None,
    dns: str = "127.0.0.1:5300",
    http: str = "127.0.0.1:8053",
    data: Path = DEFAULT_CONFIG.parent,
) -> int:
    """Run the whole loop on this machine, over an embedded AWS, until Ctrl-C.

    Args:
        pops: How many POPs the world has; 12, or all of a world file.
        prefixes: How many client prefixes; 400, or 2000 of a world file.
        world: A world file (.npz) with measured RTTs, instead of a generated world.
        services: A TOML file of [[service]] sections, instead of www.cdn.example. alone.
        dns: HOST:PORT where DNS answers.
        http: HOST:PORT of the page.
        data: Folder that keeps everything; a second start continues from it.
    """
    from console.up.run import run

    return run(pops, prefixes, world, services, dns, http, data)


def aggregate(*, config: Path) -> None:
    """Fold the streams into windows and write them to S3, as KCL workers.

    Args:
        config: The configuration file.
    """
    own = load(config)
    from aggregator.daemon import run

    run(own)


def plan(*, config: Path, once: bool = False) -> None:
    """Merge the windows, solve, judge, and publish the table and the POP state.

    Args:
        config: The configuration file.
        once: Publish one table and end.
    """
    own = load(config)
    from aggregator.plan import run

    run(own, once)


def serve(
    *,
    config: Path | None = None,
    listen: list[str] | None = None,
    table: Path | None = None,
    workers: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
) -> None:
    """Answer DNS from the table.

    Args:
        config: The configuration file.
        listen: HOST:PORT instead of dns.listen; may be given several times.
        table: A local table file instead of S3.
        workers: How many processes share the port.
    """
    own = find_config(config)
    if listen:
        own = replace(own, dns=replace(own.dns, listen=tuple(listen)))
        _ = own.dns.addresses  # refused here, before anything starts
    if workers is not None:
        own = replace(own, dns=replace(own.dns, workers=workers))
    if table is not None:
        own = replace(own, table=replace(own.table, path=str(table.resolve())))
    from resolver.server import run

    run(own)


def console(*, config: Path | None = None, listen: str | None = None) -> None:
    """Serve the POP-health page, its JSON API and Prometheus metrics.

    Args:
        config: The configuration file.
        listen: HOST:PORT instead of console.listen.
    """
    own = find_config(config)
    if listen is not None:
        own = replace(own, console=replace(own.console, listen=listen))
    from console.dashboard.server import run

    run(own)
