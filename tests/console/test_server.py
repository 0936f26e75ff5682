import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from console.dashboard.health import pop_rows, status
from console.dashboard.live import Snapshot
from console.dashboard.metrics import exposition
from console.published import View
from popsteer.config import Config


class Published(Protocol):
    """See conftest."""

    store: Any
    clock_ms: int

    def change_pop(self, pop: str, **changes: object) -> None:
        """As the planner rewrites the POP state."""


@pytest.fixture
async def http(
    serve: Callable[[], AbstractAsyncContextManager[str]],
) -> AsyncIterator[aiohttp.ClientSession]:
    async with serve() as page, aiohttp.ClientSession(page) as session:
        yield session


async def document(http: aiohttp.ClientSession, path: str, expected: int = 200) -> Any:
    async with http.get(path) as answer:
        assert answer.status == expected
        return json.loads(await answer.text())


async def events(answer: aiohttp.ClientResponse) -> AsyncIterator[Any]:
    async for line in answer.content:
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))


async def until(http: aiohttp.ClientSession, wanted: Callable[[Any], bool]) -> Any:
    """The first event that is as wanted."""
    async with http.get("/events") as answer, asyncio.timeout(10):
        async for told in events(answer):
            if wanted(told):
                return told
    raise AssertionError("the event stream ended")


async def until_fresh(http: aiohttp.ClientSession) -> None:
    await until(http, lambda told: not told["status"]["stale"])


async def test_overview_and_pops_are_json(http: aiohttp.ClientSession) -> None:
    await until_fresh(http)
    told = await document(http, "/api/overview")
    assert told["status"]["table_generation"] == 7
    assert told["overview"]["latency_ms"] == 9.1
    pops = await document(http, "/api/pops")
    assert sorted(pop["id"] for pop in pops) == ["fra1", "lon1", "par1"]
    assert pops[0]["health"] == "Up"


async def test_explain_answers_and_refuses(http: aiohttp.ClientSession) -> None:
    await until_fresh(http)
    told = await document(http, "/api/explain?address=10.0.0.9&name=img.cdn.example")
    assert (told["pop"], told["scope"]) == ("fra1", 24)
    refused = await document(http, "/api/explain?address=%3Cb%3E", expected=400)
    assert "<b>" in refused["error"]
    assert "error" in await document(http, "/api/explain", expected=400)


async def test_history_of_a_pop(http: aiohttp.ClientSession) -> None:
    await until_fresh(http)
    past = await document(http, "/api/history?pop=fra1")
    assert past["rtt_p50_ms"] == [8]
    assert "error" in await document(http, "/api/history?pop=nope", expected=404)


async def test_metrics_are_prometheus_text(http: aiohttp.ClientSession) -> None:
    await until_fresh(http)
    async with http.get("/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        families = {f.name: f for f in text_string_to_metric_families(await answer.text())}
    assert families["popsteer_data_age_seconds"].samples[0].value == 12
    assert families["popsteer_table_generation"].samples[0].value == 7
    rtt = {
        (s.labels["pop"], s.labels["quantile"]): s.value
        for s in families["popsteer_pop_rtt_seconds"].samples
    }
    assert rtt["fra1", "0.5"] == pytest.approx(0.008)
    load = {s.labels["pop"]: s.value for s in families["popsteer_pop_load_bits_per_second"].samples}
    assert load["par1"] == 40.5e9


def test_metrics_of_nothing_leave_out_what_is_unknown(config: Config, now_ms: int) -> None:
    rows = pop_rows(View(), config, now_ms)
    nothing = Snapshot(View(), status(View(), rows, config, "", now_ms), rows)
    text = exposition(lambda: nothing)().decode()
    assert "popsteer_stale 1.0" in text
    assert "popsteer_data_age_seconds" not in text


async def test_events_bring_changes(http: aiohttp.ClientSession, published: Published) -> None:
    await until_fresh(http)
    async with http.get("/events") as answer, asyncio.timeout(10):
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert (await anext(events(answer)))["pops"][0]["health"] == "Up"
    published.change_pop("lon1", up=False, reason="no TCP answer")
    told = await until(http, lambda told: told["pops"][0]["health"] == "Down")
    assert told["pops"][0]["id"] == "lon1"
    assert told["status"]["counts"] == {"Down": 1, "Up": 2}


async def test_a_store_that_goes_away_makes_the_page_stale_and_comes_back(
    http: aiohttp.ClientSession, published: Published
) -> None:
    await until_fresh(http)
    published.store.away = True
    told = await until(http, lambda told: told["status"]["stale"])
    assert "cannot be reached" in told["status"]["problems"][0]
    assert (await document(http, "/api/explain?address=10.0.0.9"))["pop"] == "fra1"
    published.store.away = False
    await until_fresh(http)


async def test_every_answer_forbids_what_is_not_its_own(http: aiohttp.ClientSession) -> None:
    for path in ("/", "/static/page.js", "/events", "/api/pops", "/favicon.ico", "/nothing"):
        async with http.get(path) as answer:
            policy = answer.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'self'")
            assert "unsafe" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/static/server.py", "/static/..%2Fserver.py", "/static/"])
async def test_only_the_page_s_own_files_are_served(http: aiohttp.ClientSession, path: str) -> None:
    async with http.get(path) as answer:
        assert answer.status == 404


def config_file(folder: Path, port: int) -> Path:
    path = folder / "popsteer.toml"
    path.write_text(
        f'[console]\nlisten = "127.0.0.1:{port}"\n[aws]\nendpoint = "http://127.0.0.1:1"\n'
        '[[pop]]\nid = "fra1"\n'
    )
    return path


def start(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "console.cli", "console", "--config", str(path)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"AWS_EC2_METADATA_DISABLED": "true"},
    )


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        running = start(config_file(tmp_path, port))
        _, error = running.communicate(timeout=60)
    assert running.returncode == 3
    assert error.startswith(f"popsteer: console.listen = 127.0.0.1:{port}: ")
    assert len(error.splitlines()) == 1


async def test_the_process_serves_without_its_store_and_ends_on_sigterm(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    running = start(config_file(tmp_path, port))
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(60):
            while True:
                try:
                    async with session.get(f"http://127.0.0.1:{port}/healthz") as answer:
                        told = await answer.json()
                        break
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.05)
        assert told["ok"]
        assert told["stale"]
    finally:
        running.send_signal(signal.SIGTERM)
        _, error = await asyncio.to_thread(running.communicate, timeout=60)
    assert running.returncode == 0
    assert "Traceback" not in error
