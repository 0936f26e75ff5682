"""Runs the loop: checks, prepares the folder, starts the processes, shows the stages."""

import asyncio
import datetime as dt
import json
import os
import signal
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from console.lab.egress import routes_of
from console.running import DEFAULT_CONFIG
from console.up import folder as folders
from console.up.ports import Address, free_address, free_pop_port
from console.up.processes import Process, Program, stop_in_order
from console.up.services import services_of
from console.up.stages import Stage, reach, stages
from popsteer import routes
from popsteer import world as worlds
from popsteer.config import Service, host_port
from popsteer.config_file import load
from popsteer.names import Prefix
from popsteer.store import s3_store
from popsteer.world import World

GENERATED_POPS = 12
GENERATED_PREFIXES = 400
WORLD_PREFIXES = 2_000
SEED = 1
READY = "ready.json"
AWS = "aws"


def run(
    pops: int | None,
    prefixes: int | None,
    world: Path | None,
    services: Path | None,
    dns: str,
    http: str,
    data: Path,
) -> int:
    """Run until Ctrl-C; gives the exit code.

    Raises:
        ConfigError: the world or the services cannot be made as asked for.
        SetupError: a port is in use, the folder is held, or a process cannot run here.
    """
    started_s = time.monotonic()
    own = _world(pops, prefixes, world)
    steered = services_of(services, own)
    with folders.locked(data.resolve()):
        return _run_in(data.resolve(), own, steered, dns, http, started_s)


def _world(pops: int | None, prefixes: int | None, path: Path | None) -> World:
    if path is None:
        return worlds.generate(
            GENERATED_POPS if pops is None else pops,
            GENERATED_PREFIXES if prefixes is None else prefixes,
            SEED,
        )
    own = worlds.load(path, WORLD_PREFIXES if prefixes is None else prefixes)
    return own if pops is None else worlds.keep_pops(own, pops)


def _run_in(
    folder: Path,
    own: World,
    services: Sequence[Service],
    dns: str,
    http: str,
    started_s: float,
) -> int:
    (folder / READY).unlink(missing_ok=True)
    at = folders.Addresses(
        dns=free_address(*host_port(dns, "--dns"), "--dns", udp=True),
        http=free_address(*host_port(http, "--http"), "--http"),
        aws=free_address("127.0.0.1", 0, "aws"),
        pop_port=free_pop_port(len(own.pops)),
    )
    config_path = folders.prepare(folder, own, services, at, dt.datetime.now(dt.UTC).hour)
    return asyncio.run(_Loop(folder, config_path, at.aws, own, started_s).run())


class _Loop:
    """All processes of one `popsteer up`."""

    def __init__(
        self, folder: Path, config_path: Path, aws: Address, own: World, started_s: float
    ) -> None:
        self._folder = folder
        self._config_path = config_path
        self._config = load(config_path)
        self._sample = _sample(own)
        self._world = own
        self._started_s = started_s
        self._screen = Console(highlight=False)
        self._aws_answers = asyncio.Event()
        self._ready = asyncio.Event()
        self._waves = [
            [Process(program, folder) for program in wave]
            for wave in _programs(folder, config_path, aws)
        ]

    async def run(self) -> int:
        """Until a signal comes; everything is ended before it returns."""
        ended = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        processes = [p for wave in self._waves for p in wave]
        tasks = [asyncio.create_task(self._start(process)) for process in processes]
        watching = asyncio.create_task(self._show_stages())
        waiting = asyncio.create_task(ended.wait())
        try:
            await _first_of({waiting, *tasks}, watching)
        finally:
            for task in (watching, waiting):
                task.cancel()
            await asyncio.gather(watching, waiting, return_exceptions=True)
            self._screen.print("stopping …")
            await stop_in_order(self._waves)
            self._aws_answers.set()  # who still waits for it finds itself stopped
            for task in tasks:
                with suppress(Exception):
                    await task
            (self._folder / READY).unlink(missing_ok=True)
        self._screen.print("stopped")
        return 0

    async def _start(self, process: Process) -> None:
        """Keep a process running; all but the AWS itself start when that answers."""
        if process.program.name != AWS:
            await self._aws_answers.wait()
        await process.run(self._ready)

    async def _show_stages(self) -> None:
        columns = (SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"))
        interactive = self._screen.is_terminal
        todo = stages(self._config, s3_store(self._config.aws), self._sample)
        with Progress(
            *columns, TimeElapsedColumn(), console=self._screen, disable=not interactive
        ) as progress:
            lines = {stage: progress.add_task(stage.name, total=1) for stage in todo}

            async def follow(stage: Stage) -> None:
                await reach(stage)
                if stage is todo[0]:
                    await asyncio.to_thread(self._write_routes)
                    self._aws_answers.set()
                progress.update(lines[stage], completed=1)
                if not interactive:
                    self._screen.print(f"[{self._elapsed_s():5.1f} s] {stage.name}")
                if stage is todo[-1]:
                    self._tell_ready(self._elapsed_s())

            await asyncio.gather(*(follow(stage) for stage in todo))
        self._print_lines()

    def _write_routes(self) -> None:
        """What the POPs' routers would write."""
        store, body = s3_store(self._config.aws), routes_of(self._world)
        for pop in self._world.pops:
            stored = store.read(routes.key(pop))
            if stored is None or stored.body != body:
                store.swap(routes.key(pop), body, stored.etag if stored else "")

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    def _tell_ready(self, ready_s: float) -> None:
        """For scripts: the file exists exactly while the loop is ready."""
        self._ready.set()
        host, port = self._config.dns.addresses[0]
        facts = {
            "ready_s": round(ready_s, 2),
            "dns": f"{host}:{port}",
            "page": f"http://{self._config.console.listen}/",
            "config": str(self._config_path),
        }
        fresh = self._folder / f"{READY}.new"
        fresh.write_text(json.dumps(facts) + "\n")
        fresh.replace(self._folder / READY)

    def _print_lines(self) -> None:
        host, port = self._config.dns.addresses[0]
        pop = self._config.pop[0].id
        digs = "".join(
            f"  dig @{host} -p {port} {one.name.rstrip('.')} +subnet={self._sample}\n"
            for one in self._config.service
        )
        command, config = _as_typed(self._config_path)
        self._screen.print(
            f"\nready after {self._elapsed_s():.1f} s; try\n"
            f"{digs}"
            f"  {command} explain {self._sample}{config}\n"
            f"  {command} lab down {pop}{config}\n"
            f"  http://{self._config.console.listen}/\n"
            "Ctrl-C stops everything; the next start goes on from "
            f"{self._folder}",
            soft_wrap=True,
        )
        sys.stdout.flush()


async def _first_of(ending: Collection[asyncio.Task[Any]], watching: asyncio.Task[None]) -> None:
    """Return when one of `ending` is done; who only watches may be done before.

    Raises:
        PopsteerError: what one of them failed for.
    """
    done, _ = await asyncio.wait({watching, *ending}, return_when=asyncio.FIRST_COMPLETED)
    if done == {watching} and watching.exception() is None:
        done, _ = await asyncio.wait([*ending], return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


def _as_typed(config_path: Path) -> tuple[str, str]:
    """How the command is called here, and the option by which it finds this loop."""
    # uv says that it runs us; without it the command is not on the PATH.
    command = "uv run popsteer" if "UV" in os.environ else "popsteer"
    is_default = config_path == DEFAULT_CONFIG.resolve()
    return command, "" if is_default else f" --config {config_path}"


def _sample(own: World) -> Prefix:
    """The IPv4 prefix with the most demand."""
    demand = own.demand_bps.mean(axis=0)[own.metro] * own.share
    prefixes = own.prefixes()
    best = max((i for i, p in enumerate(prefixes) if not p.is_ipv6), key=lambda i: demand[i])
    return prefixes[best]


def _programs(folder: Path, config_path: Path, aws: Address) -> list[list[Program]]:
    """In waves of stopping: who watches before what is watched, the AWS that all lean on last."""

    def command(name: str) -> Program:
        arguments = ("-m", "console.cli", name, "--config", str(config_path))
        return Program(name, arguments)

    # One shard carries 1 MB/s and the largest world a fifth of that; each more is a process more.
    at = ("--listen", str(aws), "--data", str(folder / "aws"), "--bulk-shards", "1")
    local_aws = Program(AWS, ("-m", "console.localaws", *at))
    lab = Program("lab", ("-m", "console.lab", "--config", str(config_path)))
    return [
        [command("serve"), command("plan"), command("console")],
        [command("probe"), lab, command("aggregate")],
        [local_aws],
    ]
