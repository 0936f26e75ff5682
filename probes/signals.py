"""Signals of POPs and links, once a period: up, load, capacity, utilisation.

Every POP is asked over HTTP by a new connection, because that is what a user does: an old
connection may live on when nobody accepts new ones. Links with an interface are read from this
machine's kernel, the others are taken from the POP's report. What is not known is not sent.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import aiohttp

from popsteer.batch import Batcher
from popsteer.clock import now_ms
from popsteer.config import Pop, Probe
from popsteer.names import SourceId, link_subject
from popsteer.samples import Batch, Kind, Signal
from probes.links import Counters, Links, Rates, rates
from probes.load import LoadReport, ask, report_url

SENDS_PER_PERIOD = 10
"""How finely signals are sent on: a tenth of a period is the delay that batching may add."""

Row = tuple[str, Signal, float]
"""Subject, signal, value."""


def pop_rows(pop: Pop, report: LoadReport | None) -> Iterator[Row]:
    """What an asked POP said; None is no answer."""
    yield pop.id, Signal.UP, float(report is not None)
    if report is None:
        return
    if report.load_bps is not None:
        yield pop.id, Signal.LOAD_BPS, report.load_bps
    if report.load_rps is not None:
        yield pop.id, Signal.LOAD_RPS, report.load_rps
    for link in pop.link:
        if not link.interface and link.id in report.links:
            yield link_subject(pop.id, link.id), Signal.TX_BPS, report.links[link.id]


def link_rows(pop: Pop, measured: dict[str, Rates]) -> Iterator[Row]:
    """What the kernel counted, by interface."""
    for link in pop.link:
        rate = measured.get(link.interface)
        if rate is not None:
            subject = link_subject(pop.id, link.id)
            yield subject, Signal.TX_BPS, rate.tx_bps
            yield subject, Signal.RX_BPS, rate.rx_bps
            yield subject, Signal.DROPS_PER_S, rate.drops_per_s


def capacity_rows(pop: Pop) -> Iterator[Row]:
    """What is configured; unlimited is not sent."""
    if pop.capacity_bps:
        yield pop.id, Signal.CAPACITY_BPS, pop.capacity_bps
    for link in pop.link:
        yield link_subject(pop.id, link.id), Signal.CAPACITY_BPS, link.capacity_bps


class Signals:
    """The signal lane of one agent, for its own POP or, in a replay, for all of them."""

    def __init__(
        self,
        pops: Sequence[Pop],
        probe: Probe,
        source: SourceId,
        offer: Callable[[Batch], bool],
    ) -> None:
        self._pops = tuple(pops)
        self._probe = probe
        self._offer = offer
        subjects = [s for pop in pops for s in (pop.id, *(f"{pop.id}/{k.id}" for k in pop.link))]
        self._index = {subject: number for number, subject in enumerate(subjects)}
        self._batcher = Batcher(Kind.SIGNAL, source, subjects)
        self._links = Links()
        # One thread, because the netlink socket belongs to the thread that opened it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="links")

    async def run(self) -> None:
        """Until cancelled."""
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        try:
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                asyncio.TaskGroup() as tasks,
            ):
                tasks.create_task(self._read_links())
                for number, pop in enumerate(self._pops):
                    tasks.create_task(self._ask(session, pop, number / len(self._pops)))
                tasks.create_task(self._send())
        finally:
            self._thread.submit(self._links.close)
            self._thread.shutdown()
            self.flush()

    async def _ask(self, session: aiohttp.ClientSession, pop: Pop, phase: float) -> None:
        """One POP, at its own phase of the period; a POP that hangs delays no other."""
        url = report_url(self._probe.load_url, pop)
        async for _ in beats(self._probe.signal_period_s, phase):
            if url:
                self._add(pop_rows(pop, await ask(session, url, self._probe.timeout_s)))
            self._add(capacity_rows(pop))

    async def _read_links(self) -> None:
        if not any(link.interface for pop in self._pops for link in pop.link):
            return
        loop = asyncio.get_running_loop()
        before_ns, before = (
            time.monotonic_ns(),
            await loop.run_in_executor(self._thread, self._links.read),
        )
        async for _ in beats(self._probe.signal_period_s, 1.0):
            after = await loop.run_in_executor(self._thread, self._links.read)
            after_ns = time.monotonic_ns()
            measured = _rates(before, after, (after_ns - before_ns) / 1e9)
            for pop in self._pops:
                self._add(link_rows(pop, measured))
            before_ns, before = after_ns, after

    async def _send(self) -> None:
        async for _ in beats(self._probe.signal_period_s / SENDS_PER_PERIOD, 1.0):
            self.flush()

    def flush(self) -> None:
        """Offer what is there."""
        for batch in self._batcher.take(now_ms(), flush=True):
            self._offer(batch)

    def _add(self, rows: Iterator[Row]) -> None:
        for subject, signal, value in rows:
            self._batcher.append(now_ms(), self._index[subject], signal, value)


async def beats(period_s: float, phase: float) -> AsyncIterator[None]:
    """One beat a period, the first after `phase` of one; beats that were missed are left out."""
    loop = asyncio.get_running_loop()
    next_s = loop.time() + phase * period_s
    while True:
        await asyncio.sleep(next_s - loop.time())
        yield
        missed = max(0, math.floor((loop.time() - next_s) / period_s))
        next_s += (1 + missed) * period_s


def _rates(
    before: dict[str, Counters], after: dict[str, Counters], elapsed_s: float
) -> dict[str, Rates]:
    both = before.keys() & after.keys()
    measured = {name: rates(before[name], after[name], elapsed_s) for name in both}
    return {name: rate for name, rate in measured.items() if rate is not None}
