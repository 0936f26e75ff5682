"""A small published system: three POPs, three prefixes, everything signed by nobody."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from console.dashboard.server import app
from console.published import View
from popsteer import config_file
from popsteer import evidence as evidences
from popsteer import overview as overviews
from popsteer import state as states
from popsteer import table as tables
from popsteer.config import Config
from popsteer.errors import StoreError
from popsteer.evidence import Evidence, Reason
from popsteer.names import Prefix, prefix_arrays
from popsteer.orders import Orders
from popsteer.overview import LinkView, Overview, PopView
from popsteer.signing import Signer
from popsteer.state import PopState, State
from popsteer.store import MemoryStore, Stored
from popsteer.table import NO_POP, NO_RTT, Pointer, Table, TableMeta

SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
NOW_MS = 1_700_000_000_000
POPS = ("fra1", "lon1", "par1")
RAW = {
    "pop": [
        {
            "id": "fra1",
            "ipv4": ["192.0.2.1"],
            "ipv6": ["2001:db8::1"],
            "capacity_bps": 100e9,
            "location": [50.0, 8.6],
        },
        {
            "id": "lon1",
            "ipv4": ["192.0.2.2"],
            "capacity_bps": 100e9,
            "location": [51.5, -0.1],
            "link": [{"id": "transit", "capacity_bps": 60e9}],
        },
        {"id": "par1", "ipv4": ["192.0.2.3"], "capacity_bps": 50e9, "location": [48.9, 2.4]},
    ],
    "trust": {"public_keys": [SIGNER.public_hex]},
    "service": [{"name": "www.cdn.example.", "ttl_s": 20}, {"name": "img.cdn.example."}],
}


@pytest.fixture
def now_ms() -> int:
    return NOW_MS


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return config_file.parse(RAW, tmp_path / "popsteer.toml")


def answers(*rows: dict[str, int]) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Columns `pop` and `share` of rows that map POPs to shares of 255, best first."""
    pop = np.full((len(rows), 8), NO_POP, np.uint16)
    share = np.zeros((len(rows), 8), np.uint8)
    for i, row in enumerate(rows):
        pop[i, : len(row)] = [POPS.index(name) for name in row]
        share[i, : len(row)] = list(row.values())
    return pop, share


def make_table() -> Table:
    """10.0.0.0/24 to fra1, 10.0.1.0/24 split fra1 and lon1, 2001:db8:1::/48 to par1."""
    net, plen = prefix_arrays(
        Prefix.parse(text) for text in ("10.0.0.0/24", "10.0.1.0/24", "2001:db8:1::/48")
    )
    pop, share = answers(
        {"fra1": 255, "lon1": 0, "par1": 0}, {"fra1": 153, "lon1": 102}, {"par1": 255}
    )
    rtt = np.full((3, 8), NO_RTT, np.uint16)
    rtt[:, :2] = [[81, 152], [90, 110], [200, NO_RTT]]
    meta = TableMeta(
        generation=7,
        parent=6,
        created_ms=NOW_MS - 20_000,
        policy="optimum",
        window_first_ms=NOW_MS - 90_000,
        window_last_ms=NOW_MS - 30_000,
        default=("par1", "fra1"),
    )
    return tables.build(meta, POPS, net, plen, pop, share, rtt)


def make_evidence() -> Evidence:
    """Of 10.0.0.0/24 alone: fra1 chosen, lon1 slower, par1 faster but full."""
    net, plen = prefix_arrays([Prefix.parse("10.0.0.0/24")] * 3)

    def column(*values: float) -> NDArray[np.float32]:
        return np.array(values, np.float32)

    return Evidence(
        7,
        NOW_MS - 20_000,
        POPS,
        net,
        plen,
        demand_bps=column(2e9, 2e9, 2e9),
        pop=np.array([0, 1, 2], np.uint16),
        rtt_us=column(8_100, 15_200, 5_100),
        spread_us=column(400, 900, float("nan")),
        samples=column(42, 17, 3),
        age_s=column(4, 6, 80),
        loss=column(0, 0.02, 0),
        price_us=column(0, 0, 6_000),
        reason=np.array([Reason.CHOSEN, Reason.SLOWER, Reason.FULL], np.uint8),
        source=np.zeros(3, np.uint8),
    )


def make_state() -> State:
    return State(
        generation=3,
        created_ms=NOW_MS - 1_000,
        expires_ms=NOW_MS + 9_000,
        table_generation=7,
        pops={
            "fra1": PopState(fresh_ms=NOW_MS - 1_500, load_bps=40e9, capacity_bps=100e9),
            "lon1": PopState(fresh_ms=NOW_MS - 1_500, load_bps=30e9, capacity_bps=100e9),
            "par1": PopState(fresh_ms=NOW_MS - 1_500, load_bps=40.5e9, capacity_bps=50e9),
        },
    )


def make_overview() -> Overview:
    def pop(p50: float, load: float, capacity: float, share: float) -> PopView:
        return PopView(
            rtt_p50_us=p50,
            rtt_p95_us=2 * p50,
            loss=0.001,
            samples_per_min=600,
            age_s=0.5,
            load_bps=load,
            capacity_bps=capacity,
            demand_share=share,
            demand_share_before=share,
        )

    lon1 = msgspec.structs.replace(
        pop(15_000, 30e9, 100e9, 0.3),
        links={"transit": LinkView(tx_bps=20e9, capacity_bps=60e9)},
    )
    pops = {"fra1": pop(8_000, 40e9, 100e9, 0.4), "lon1": lon1}
    pops["par1"] = pop(5_000, 40.5e9, 50e9, 0.3)
    return Overview(
        created_ms=NOW_MS - 1_000,
        table_generation=7,
        table_created_ms=NOW_MS - 20_000,
        rows=3,
        prefixes=3,
        window_last_ms=NOW_MS - 12_000,
        demand_bps=110e9,
        latency_ms=9.1,
        policy="optimum",
        pops=pops,
    )


@pytest.fixture
def table() -> Table:
    return make_table()


@pytest.fixture
def evidence() -> Evidence:
    return make_evidence()


@pytest.fixture
def state() -> State:
    return make_state()


@pytest.fixture
def overview() -> Overview:
    return make_overview()


@pytest.fixture
def view(table: Table, state: State, overview: Overview, evidence: Evidence) -> View:
    return View(table, state, overview, evidence, Orders())


@pytest.fixture
def store(table: Table, state: State, overview: Overview, evidence: Evidence) -> MemoryStore:
    """The same, as the planner publishes it."""
    key = tables.key(7)
    pointer = Pointer(generation=7, key=key, sha256="", created_ms=NOW_MS - 20_000)
    return MemoryStore(
        {
            key: tables.encode(table, SIGNER),
            tables.CURRENT_KEY: msgspec.json.encode(pointer),
            states.KEY: states.encode(state, SIGNER),
            overviews.KEY: msgspec.json.encode(overview),
            evidences.key(7): evidences.encode(evidence),
        }
    )


@pytest.fixture(scope="session")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[View, Config, int]:
    """The same for property tests, which share one value over all examples."""
    config = config_file.parse(RAW, tmp_path_factory.mktemp("fixed") / "popsteer.toml")
    return View(make_table(), make_state(), make_overview(), make_evidence()), config, NOW_MS


@dataclass(slots=True)
class Breakable(MemoryStore):
    """A store that goes away when a test says so."""

    away: bool = False

    def read(self, key: str, unless_etag: str = "") -> Stored | None:
        """See `ObjectStore.read`."""
        if self.away:
            raise StoreError(f"{key}: cannot be reached")
        return MemoryStore.read(self, key, unless_etag)


@dataclass(slots=True)
class Published:
    """A store and a clock that a test changes under a running page."""

    store: Breakable
    clock_ms: int = NOW_MS

    def now_ms(self) -> int:
        """The page's clock."""
        return self.clock_ms

    def change_pop(self, pop: str, **changes: object) -> None:
        """As the planner rewrites the POP state."""
        old = states.decode(self.store.objects[states.KEY])
        pops = old.pops | {pop: msgspec.structs.replace(old.pops[pop], **changes)}
        new = msgspec.structs.replace(old, generation=old.generation + 1, pops=pops)
        self.store.objects[states.KEY] = states.encode(new, SIGNER)

    def publish(self, generation: int) -> None:
        """The same answers under another generation."""
        key = tables.key(generation)
        new = tables.renumber(make_table(), generation, self.clock_ms, "")
        self.store.objects[key] = tables.encode(new, SIGNER)
        pointer = Pointer(generation=generation, key=key, sha256="", created_ms=self.clock_ms)
        self.store.objects[tables.CURRENT_KEY] = msgspec.json.encode(pointer)


@pytest.fixture
def published(store: MemoryStore) -> Published:
    return Published(Breakable(store.objects))


Serve = Callable[[], AbstractAsyncContextManager[str]]


@pytest.fixture
def serve(published: Published, config: Config) -> Serve:
    """Runs a page that looks at the store twenty times a second; gives its address."""

    @asynccontextmanager
    async def running() -> AsyncIterator[str]:
        runner = web.AppRunner(
            app(config, published.store, period_s=0.05, now_ms=published.now_ms),
            access_log=None,
            shutdown_timeout=0.1,
        )
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
        await runner.cleanup()

    return running
