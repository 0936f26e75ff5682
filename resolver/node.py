"""One DNS node: polls tables, checks POPs, tells the workers, reports demand.

Owns what is common to all workers of a machine. Runs in the process that answers when there is
one worker, in the parent when there are several.
"""

import asyncio
import contextlib
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from popsteer.clock import age_s, now_ms
from popsteer.config import Config
from popsteer.errors import ConfigError, StoreError
from popsteer.heartbeat import Newest, Stage
from popsteer.names import SourceId
from popsteer.table import Table
from popsteer.telemetry import OncePerKey, logger
from resolver.aside import aside
from resolver.cookies import CookieSecret
from resolver.counts import Counts
from resolver.expiry import Expiry
from resolver.geography import check_geography, geography_of, with_stand_ins
from resolver.health import Prober
from resolver.kept import keep, make_folder, read_kept
from resolver.notify import Notifier, targets_of
from resolver.route import Outlook, outlook_of, under_policy
from resolver.shelf import Shelf, Shelved
from resolver.snapshot import Rung
from resolver.tables import Refusals, View, open_source
from resolver.worker import Report, Update

if TYPE_CHECKING:
    from popsteer.sink import Sink

TICK_S = 1.0
"""How often workers are told of expiries and asked for their counts."""
SPILL_BYTES_MAX = 64 * 1024 * 1024
DRAIN_S = 2.0


class Node:
    """The loops of a node; `publish` is called with each update."""

    def __init__(self, config: Config, publish: Callable[[Update], None]) -> None:
        """Start from disk.

        Raises:
            ConfigError: the table file or a key cannot be used.
            SetupError: the data folder cannot be used.
        """
        self._config = config
        self._publish = publish
        self._refusals = Refusals()
        self._once = OncePerKey()
        self._source = open_source(config, self._refusals)
        self._shelf = Shelf(config.data_dir / "resolver" / "tables")
        self._view, self._shelved = self._first_view()
        self._newest = self._view
        """From the source; its table is served once it is compiled."""
        self._geography: Shelved | None = None
        """Served until there is a table."""
        if config.table.geography:
            check_geography(config)
        self._good = Outlook()
        """The last that was not doubted."""
        self._sent_table = False
        self._stamps = _stamps(config)
        self._prober = self._open_prober()
        self._expiry = Expiry(config)
        self._notifier = Notifier(targets_of(config))
        self.counts = Counts()
        self.sink = self._open_sink()

    def _first_view(self) -> tuple[View, Shelved | None]:
        """From disk; an index that is not there yet is built later, so that answers start now."""
        view = self._stood_in(self._source.start())
        if view.table is None:
            return view, None
        shelved = self._shelf.find(view.table)
        return replace(view, table=shelved.table), shelved

    def _open_prober(self) -> Prober | None:
        if self._config.health is None:
            return None
        kept = make_folder(self._config.data_dir / "resolver") / "health.json"
        rng = Random()  # noqa: S311 -- spreads checks, guards nothing
        return Prober(self._config, self._config.health, kept, rng, self.tell)

    def _open_sink(self) -> "Sink | None":
        """Demand goes to Kinesis, unless this node stands alone."""
        config = self._config
        alone = bool(config.table.path) or not config.trust.public_keys
        if alone and not config.aws.endpoint:
            return None
        # boto3 takes half a second to import, and a node that stands alone never needs it.
        from popsteer.sink import open_sink

        folder = make_folder(config.data_dir / "resolver")
        return open_sink(config.aws, folder, SPILL_BYTES_MAX)

    @property
    def refusals(self) -> Refusals:
        """What was not taken."""
        return self._refusals

    def update(self) -> Update:
        """All that a new worker must know."""
        health = self._config.health
        outlook = outlook_of(
            self._prober.down if self._prober else frozenset(),
            self._view.state,
            now_ms(),
            health.panic_share if health else 1.0,
            len(self._config.pop),
        )
        if not outlook.doubted:
            self._good = outlook
        if health is not None:
            outlook = under_policy(outlook, health, self._config.pop_ids(), self._good)
        return Update(outlook, self._rung(), self._shelved or self._geography)

    def _rung(self) -> Rung:
        rung = self._view.rung(now_ms())
        return Rung.GEOGRAPHY if rung is Rung.STATIC and self._geography is not None else rung

    def tell(self) -> None:
        """Tell the workers what changed; the table only when it did."""
        update = self.update()
        if self._sent_table:
            update = replace(update, shelved=None)
        self._sent_table = True
        self._publish(update)

    def reload_zones(self) -> None:
        """Have the workers read the zones again."""
        self._stamps = _stamps(self._config)
        self._expiry.read()
        self._publish(replace(self.update(), shelved=None, reload_zones=True))

    def gauges(self) -> dict[str, float]:
        """Freshness, as metrics."""
        table, state = self._view.table, self._view.state
        return {
            "table_generation": table.meta.generation if table else 0,
            "table_age_seconds": age_s(table.meta.created_ms, now_ms()) if table else 0,
            "table_rows": len(table) if table else 0,
            "state_generation": state.generation if state else 0,
            "state_age_seconds": age_s(state.created_ms, now_ms()) if state else 0,
            "pops_down": len(self._prober.down) if self._prober else 0,
            **self._expiry.gauges(now_ms() // 1_000),
        }

    def newest(self) -> Newest:
        """How fresh what this node goes by is; see `popsteer.heartbeat.Ages`."""
        state, table = self._view.state, self._view.table
        heartbeat_ms = state.heartbeat_ms if state else {}
        newest = {(Stage.NODE_STATE, stream): ms for stream, ms in heartbeat_ms.items()}
        if table is not None and table.meta.window_last_ms:
            newest[Stage.NODE_TABLE, self._config.aws.bulk_stream] = table.meta.window_last_ms
        return newest

    def rung(self) -> str:
        """Where on the freshness ladder the node stands."""
        return str(self._rung())

    def take(self, report: Report) -> None:
        """Add a worker's counts, pass its demand on."""
        self.counts.add(report.counts)
        self._notifier.offer(report.serials)
        for batch in report.demand:
            if self.sink is not None:
                self.sink.offer(batch)

    async def run(self) -> None:
        """Poll, check and tell until cancelled."""
        self.tell()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._notifier.run())
            tasks.create_task(self._poll())
            tasks.create_task(self._tick())
            if self._config.table.geography and self._view.table is None:
                tasks.create_task(self._locate())
            if self._prober is not None:
                tasks.create_task(self._prober.run())
            if self.sink is not None:
                tasks.create_task(self._send(self.sink))

    async def _poll(self) -> None:
        """Take states at once, for they are orders and failures; tables when they are compiled."""
        async with asyncio.TaskGroup() as tasks:
            indexing: asyncio.Task[None] | None = None
            while True:
                asked = self._newest
                try:
                    new = await aside(partial(self._source.poll, asked, now_ms()))
                except StoreError as error:
                    self._refusals.counts["away"] += 1
                    if self._once.first("away"):
                        logger().warning("table source away", reason=str(error))
                else:
                    # Meanwhile the table that was asked with may have been put on the shelf.
                    same = new.table is asked.table
                    self._newest = replace(new, table=self._newest.table) if same else new
                    self._take_state()
                    behind = self._newest.table is not self._view.table
                    if indexing is None or (behind and indexing.done()):
                        indexing = tasks.create_task(self._index())
                await asyncio.sleep(self._config.table.poll_s)

    def _take_state(self) -> None:
        """What is known of the POPs goes with the table that is served, however old that is."""
        newest, served = self._newest, self._view
        confirmed = newest if newest.table is served.table else served
        view = View(served.table, newest.state, confirmed.confirmed_ms)
        self._take_view(view, self._shelved)

    async def _index(self) -> None:
        """Take the newest table, once it is compiled."""
        newest = self._newest
        table, shelved = await aside(partial(self._look, newest.table, self._view, self._shelved))
        if self._newest.table is newest.table:
            self._newest = replace(self._newest, table=table)
        self._take_view(View(table, self._view.state, newest.confirmed_ms), shelved)

    def _look(
        self, table: Table | None, served: View, shelved: Shelved | None
    ) -> tuple[Table | None, Shelved | None]:
        """A table with its index: the one that is served, or a new one."""
        if table is None:
            return None, None
        if table is not served.table:
            table = with_stand_ins(table, self._config)
        elif shelved is not None and shelved.index is not None:
            self._shelf.prepare()
            return table, shelved
        shelved = self._shelf.put(table)
        if shelved.index is None and self._once.first("rows"):
            logger().error("table too large to be compiled; the slow path answers")
        return shelved.table, shelved

    def _stood_in(self, view: View) -> View:
        """A table's rows get stand-ins by geography."""
        if view.table is None:
            return view
        return replace(view, table=with_stand_ins(view.table, self._config))

    async def _locate(self) -> None:
        """Make the table of geography, for as long as there is no other."""
        stopped = threading.Event()
        try:
            shelved = await aside(partial(self._place, stopped))
        except ConfigError as error:
            logger().error("geography cannot be used", reason=str(error))
            return
        finally:
            stopped.set()
        if shelved is not None and self._view.table is None:
            self._geography, self._sent_table = shelved, False
            logger().info("geography taken", networks=len(shelved.table))
            self.tell()

    def _place(self, stopped: threading.Event) -> Shelved | None:
        table = geography_of(self._config, stopped)
        return self._shelf.put(table) if table is not None else None

    def _take_view(self, view: View, shelved: Shelved | None) -> None:
        before, self._view, self._shelved = self._view, view, shelved
        if view.table is not before.table and view.table is not None:
            logger().info("table taken", generation=view.table.meta.generation)
            self._geography = None
            self._sent_table = False
        if view.table is not before.table or view.state is not before.state:
            self.tell()

    async def _tick(self) -> None:
        """States expire and rungs fall by the clock alone."""
        while True:
            await asyncio.sleep(TICK_S)
            self.tell()
            self._expiry.say(now_ms() // 1_000)
            if await asyncio.to_thread(_stamps, self._config) != self._stamps:
                self.reload_zones()

    async def _send(self, sink: "Sink") -> None:
        """Run the sink; at the end give what is in memory a moment to go out."""
        running = asyncio.create_task(sink.run())
        try:
            await asyncio.shield(running)
        finally:
            await sink.drain(DRAIN_S)
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            sink.close()


def node_name(config: Config) -> str:
    """What this node calls itself."""
    return config.dns.node or socket.gethostname()


def lane(config: Config, worker: int) -> SourceId:
    """The source id of one worker's demand."""
    return SourceId(f"{node_name(config)}.dns{worker}")


def cookie_secret(config: Config) -> CookieSecret:
    """The node's master secret, made once; a lasting one where there is a data folder already.

    A node that may not write keeps it in memory: clients then just fetch new cookies after a
    restart.
    """
    path = config.data_dir / "resolver" / "cookie.secret"
    master = read_kept(path) or b""
    if len(master) != 32:
        master = secrets.token_bytes(32)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            keep(path, master)
            path.chmod(0o600)
    return CookieSecret(master)


def _stamps(config: Config) -> Sequence[tuple[int, int]]:
    """What changes when a zone file or the file of signatures does."""
    files = [*config.dns.zones, *filter(None, [config.dns.dnssec])]
    return [_stamp(config.path(file)) for file in files]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return (0, 0)
    return (stat.st_size, stat.st_mtime_ns)
