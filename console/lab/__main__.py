"""The process of the lab: POP listeners and simulated clients of one `popsteer up`."""

import argparse
import asyncio
import datetime as dt
import signal
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from console.lab.clients import Clients, caches_of, parts_of, query
from console.lab.egress import LINKS, link_of
from console.lab.listeners import Listeners, LoadReport
from popsteer import world as worlds
from popsteer.config import Config, Pop
from popsteer.config_file import load
from popsteer.lab import FILE, Watch
from popsteer.names import Prefix
from popsteer.telemetry import configure

TICK_S = 0.1
SEED = 7


class Lab:
    """Joins the world, its clients and its POPs; asked by the listeners for their load."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._world = worlds.read(config.path(config.probe.world))
        self._watch = Watch(config.data_dir / FILE)
        self._pops: dict[str, Pop] = {pop.id: pop for pop in config.pop}
        self._index = {pop: i for i, pop in enumerate(self._world.pops)}
        self._link = link_of(self._world)
        self._link_bps = np.zeros((len(self._world.pops), len(LINKS)))
        self._factor = np.ones(len(self._world.net))
        part, prefixes = parts_of(config.service), self._world.prefixes()
        self._queries_per_bit = float(part @ [1 / one.query_bits for one in config.service])
        self._clients = Clients(
            caches_of(self._world, _hour_utc(), part, np.random.default_rng(SEED)),
            max(one.ttl_s for one in config.service),
            [[query(one.name, prefix) for prefix in prefixes] for one in config.service],
            {pop.ipv4[0]: self._index[pop.id] for pop in config.pop},
        )

    def report(self, pop: str) -> LoadReport:
        """What the POP's load report says: its clients, and what a person put on top."""
        own = self._pops[pop]
        by_link = dict(zip(LINKS, self._link_bps[self._index[pop]].tolist(), strict=True))
        more_bps = self._watch.changes.load_bps.get(pop, 0.0)
        load_bps = sum(by_link.values()) + more_bps
        whole = sum(link.capacity_bps for link in own.link)
        links = {
            link.id: by_link.get(link.id, 0.0) + more_bps * link.capacity_bps / whole
            for link in own.link
        }
        load_rps = load_bps * self._queries_per_bit
        return {"load_bps": load_bps, "load_rps": load_rps, "links": links}

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set."""
        assert self._config.health is not None
        listeners = Listeners(self._pops, self._config.health.port, self.report)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: self._clients, remote_addr=self._config.dns.addresses[0]
        )
        try:
            self._watch.poll()
            changed = True
            while not stop.is_set():
                if changed:
                    await listeners.apply(frozenset(self._watch.changes.down))
                    self._factor = self._demand_factor()
                self._clients.tick(loop.time())
                self._link_bps = self._loads()
                await _wait(stop, TICK_S)
                changed = self._watch.poll()
        finally:
            transport.close()
            await listeners.close()

    def _loads(self) -> NDArray[np.float64]:
        demand_bps = self._world.prefix_demand_bps(_hour_utc()) * self._factor
        pops, caches = len(self._world.pops), self._clients.caches
        return caches.link_bps(demand_bps, pops, self._link, len(LINKS))

    def _demand_factor(self) -> NDArray[np.float64]:
        factor = np.ones(len(self._world.net))
        own = self._world.prefixes()
        for text, times in self._watch.changes.demand.items():
            changed = Prefix.parse(text)
            factor[[i for i, prefix in enumerate(own) if changed.contains(prefix)]] *= times
        return factor


def _hour_utc() -> float:
    now = dt.datetime.now(dt.UTC)
    return now.hour + now.minute / 60


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return


async def _main(config: Config) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await Lab(config).run(stop)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    configure("lab")
    asyncio.run(_main(load(parser.parse_args().config)))
