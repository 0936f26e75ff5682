"""Load reports, link rates and the rows made of them; what is unknown is not sent."""

import asyncio
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from popsteer.config import Config, Link, Pop, Probe
from popsteer.errors import ConfigError
from popsteer.names import SourceId
from popsteer.samples import Batch, Signal, SignalBatch
from probes.agent import network_plan, replay_plan
from probes.links import Counters, Links, Rates, parse_proc_net_dev, rates
from probes.load import REPORT_BYTES_MAX, LoadReport, ask, parse_report, report_url
from probes.signals import Signals, beats, capacity_rows, link_rows, pop_rows

POP = Pop(
    id="fra1",
    ipv4=("127.0.0.1",),
    capacity_bps=1e9,
    link=(
        Link(id="decix", interface="eth1", capacity_bps=4e9),
        Link(id="transit", capacity_bps=2e9),
    ),
)


def test_rates_between_two_readings() -> None:
    before, after = Counters(1_000, 5_000, 3), Counters(2_000, 7_500, 9)
    assert rates(before, after, 2.0) == Rates(4_000, 10_000, 3)


@pytest.mark.parametrize(
    ("before", "after", "elapsed_s"),
    [
        (Counters(2_000, 0, 0), Counters(1_000, 0, 0), 1.0),
        (Counters(0, 9, 0), Counters(0, 8, 0), 1.0),
        (Counters(0, 0, 5), Counters(0, 0, 0), 1.0),
        (Counters(0, 0, 0), Counters(1, 1, 1), 0.0),
    ],
)
def test_a_counter_that_went_back_gives_no_rate(
    before: Counters, after: Counters, elapsed_s: float
) -> None:
    assert rates(before, after, elapsed_s) is None


def test_the_kernel_and_proc_agree_on_the_interfaces() -> None:
    links = Links()
    found = links.read()
    links.close()
    if not found:
        pytest.skip("the kernel tells no link counters here")
    proc = parse_proc_net_dev(Path("/proc/net/dev").read_text())
    assert found.keys() == proc.keys()
    assert 0 <= proc["lo"].rx_bytes - found["lo"].rx_bytes < 1e9


def test_proc_net_dev_columns() -> None:
    text = "Inter-|  Receive\n face |bytes\n  eth0: 11 2 3 4 5 6 7 8 99 10 1 12 13 14 15 16\n"
    assert parse_proc_net_dev(text) == {"eth0": Counters(11, 99, 4 + 12)}


@pytest.mark.parametrize(
    ("body", "report"),
    [
        (b'{"load_bps": 5, "links": {"a": 2, "b": -1}}', LoadReport(load_bps=5.0, links={"a": 2})),
        (b'{"load_bps": -5, "load_rps": 1e300}', LoadReport()),
        (b'{"load_bps": "many"}', LoadReport()),
        (b"OK", LoadReport()),
        (b"", LoadReport()),
        (b'{"other": [1]}', LoadReport()),
    ],
)
def test_a_report_keeps_only_what_makes_sense(body: bytes, report: LoadReport) -> None:
    assert parse_report(body) == report


def test_the_address_of_a_report() -> None:
    six = Pop(id="lhr1", ipv6=("2001:db8::1",))
    assert report_url("http://{address}:8/load", POP) == "http://127.0.0.1:8/load"
    assert report_url("http://{address}:8/load", six) == "http://[2001:db8::1]:8/load"
    assert report_url("http://{address}:8/load", Pop(id="none")) == ""
    assert report_url("http://127.0.0.9/x", Pop(id="none")) == "http://127.0.0.9/x"
    assert report_url("", POP) == ""


def test_rows_say_what_is_known_and_nothing_else() -> None:
    report = LoadReport(load_bps=5.0, links={"transit": 7.0, "decix": 9.0})
    assert list(pop_rows(POP, report)) == [
        ("fra1", Signal.UP, 1.0),
        ("fra1", Signal.LOAD_BPS, 5.0),
        # decix has an interface here: the kernel's figure counts, not the report's.
        ("fra1/transit", Signal.TX_BPS, 7.0),
    ]
    assert list(pop_rows(POP, None)) == [("fra1", Signal.UP, 0.0)]
    assert list(link_rows(POP, {"eth1": Rates(1, 2, 3), "eth9": Rates(4, 5, 6)})) == [
        ("fra1/decix", Signal.TX_BPS, 2),
        ("fra1/decix", Signal.RX_BPS, 1),
        ("fra1/decix", Signal.DROPS_PER_S, 3),
    ]
    assert [row[0] for row in capacity_rows(POP)] == ["fra1", "fra1/decix", "fra1/transit"]
    assert list(capacity_rows(Pop(id="free"))) == []


async def serve(respond: Callable[[], web.StreamResponse], timeout_s: float) -> LoadReport | None:
    async def handle(_: web.Request) -> web.StreamResponse:
        response = respond()
        if response.status == web.HTTPAccepted.status_code:
            await asyncio.sleep(1)
        return response

    app = web.Application()
    app.router.add_get("/load", handle)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        return await ask(session, str(server.make_url("/load")), timeout_s)


async def test_a_pop_is_up_when_it_answers() -> None:
    assert await serve(lambda: web.Response(text='{"load_bps": 3}'), 2) == LoadReport(load_bps=3.0)
    assert await serve(lambda: web.Response(text="fine"), 2) == LoadReport()
    assert await serve(lambda: web.Response(text=" " * (2 * REPORT_BYTES_MAX)), 2) == LoadReport()
    assert await serve(lambda: web.Response(status=503), 2) is None
    assert await serve(lambda: web.Response(status=202), 0.05) is None


async def test_a_pop_that_hangs_delays_no_other() -> None:
    seen: list[SignalBatch] = []

    def offer(batch: Batch) -> bool:
        assert isinstance(batch, SignalBatch)
        seen.append(batch)
        return True

    async def handle(request: web.Request) -> web.Response:
        if request.query["pop"] == "slow":
            await asyncio.sleep(5)
        return web.Response(text='{"load_bps": 1}')

    app = web.Application()
    app.router.add_get("/load", handle)
    async with TestServer(app) as server:
        probe = Probe(
            signal_period_s=0.1, timeout_s=0.5, load_url=f"{server.make_url('/load')}?pop={{pop}}"
        )
        pops = [Pop(id="slow"), Pop(id="fast")]
        task = asyncio.create_task(Signals(pops, probe, SourceId("x.signal"), offer).run())
        async with asyncio.timeout(10):
            while not {0, 1} <= {s for b in seen for s in b.subject.tolist()}:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    up = [
        (batch.header.subjects[subject], value)
        for batch in seen
        for subject, which, value in zip(batch.subject, batch.signal, batch.value, strict=True)
        if which == Signal.UP
    ]
    assert ("slow", 0.0) in up
    assert up.index(("slow", 0.0)) > 1
    assert set(up) == {("slow", 0.0), ("fast", 1.0)}


async def test_beats_that_were_missed_are_left_out() -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []
    async for _ in beats(0.02, 0.5):
        times.append(loop.time())
        if len(times) == 2:
            await asyncio.sleep(0.07)
        if len(times) == 5:
            break
    gaps = [late - early for early, late in pairwise(times)]
    assert math.fsum(gaps) >= 0.02 * 6 - 0.02
    assert len([gap for gap in gaps[2:] if gap > 0.001]) == len(gaps[2:])


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (Config(pop=(POP,), probe=Probe(pop="x")), r"probe.pop = 'x': .* \(fra1\)"),
        (Config(probe=Probe()), "none is configured"),
        (Config(pop=(POP,), probe=Probe(pop="fra1")), "probe.targets"),
    ],
)
def test_what_an_agent_lacks_is_said_in_a_sentence(config: Config, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        network_plan(config)


def test_what_a_replay_lacks_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a world file"):
        replay_plan(Config(probe=Probe(source="replay")))
    with pytest.raises(ConfigError, match="not a saved world"):
        replay_plan(Config(folder=str(tmp_path), probe=Probe(source="replay", world="no.npz")))
