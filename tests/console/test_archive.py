"""History and SQL over what partials say."""

import json
from pathlib import Path

import numpy as np
import pytest

from aggregator.partials import encode
from benchmarks.scene import LOST_US, demand_partial, rtt_partial, signal_partial
from console import cli
from console.archive import ask, database, kinds_in
from console.commands import history as commands
from popsteer import clock
from popsteer.aws import s3
from popsteer.config import Aws
from popsteer.errors import ConfigError
from popsteer.names import Prefix, prefix_arrays
from popsteer.samples import Kind, Signal
from popsteer.store import MemoryStore, ObjectStore, Stored, s3_store

POPS = ("ams1", "fra1")
NET, PLEN = prefix_arrays(Prefix.parse(t) for t in ("10.0.0.0/24", "10.0.1.0/24", "2001:db8::/48"))
T0_MS = 1_700_000_000_000 // 60_000 * 60_000


def fill(store: ObjectStore, t0_ms: int, windows: int = 3) -> None:
    rtt_us = np.array([[20_000, 10_000], [LOST_US, 30_000], [np.nan, 5_000]])
    for window in range(windows):
        start_ms = t0_ms + 10_000 * window
        rtt = rtt_partial(start_ms, NET, PLEN, POPS, rtt_us)
        store.create(rtt.origin.key(Kind.RTT), encode(rtt))
        bits = np.array([1e9, 2e9, 3e9])
        demand = demand_partial(start_ms, NET, PLEN, POPS, np.array([0, 1, 1]), bits)
        store.create(demand.origin.key(Kind.DEMAND), encode(demand))
        signal = signal_partial(start_ms, {("fra1", Signal.LOAD_BPS): 5e9})
        store.create(signal.origin.key(Kind.SIGNAL), encode(signal))


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    fill(made, T0_MS)
    return made


def test_sql_sees_every_sample_with_its_names(store: MemoryStore) -> None:
    base = database(store, T0_MS, T0_MS + 60_000)

    names, rows = ask(
        base,
        "SELECT prefix, pop, method, sum(count)::INT AS n, bool_or(lost) AS lost, avg(rtt_ms) AS ms"
        " FROM rtt GROUP BY ALL ORDER BY ALL",
    )

    assert names == ["prefix", "pop", "method", "n", "lost", "ms"]
    assert [row[:5] for row in rows] == [
        ("10.0.0.0/24", "ams1", "icmp", 3, False),
        ("10.0.0.0/24", "fra1", "icmp", 3, False),
        ("10.0.1.0/24", "ams1", "icmp", 3, True),
        ("10.0.1.0/24", "fra1", "icmp", 3, False),
        ("2001:db8::/48", "fra1", "icmp", 3, False),
    ]
    assert [row[5] for row in rows] == [
        pytest.approx(20, rel=0.01),
        pytest.approx(10, rel=0.01),
        None,
        pytest.approx(30, rel=0.01),
        pytest.approx(5, rel=0.01),
    ]


def test_demand_and_signals_are_tables_too(store: MemoryStore) -> None:
    base = database(store, T0_MS, T0_MS + 60_000)

    _, demand = ask(base, "SELECT pop, sum(bits), sum(queries)::INT FROM demand GROUP BY 1")
    _, signal = ask(base, "SELECT DISTINCT subject, signal, mean FROM signal")

    assert sorted(demand) == [("ams1", 3e9, 30), ("fra1", 15e9, 60)]
    assert signal == [("fra1", "load_bps", 5e9)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "COPY rtt TO '/tmp/popsteer-must-not-be'",
        "INSTALL httpfs",
        "SELEC 1",
    ],
)
def test_sql_reads_these_tables_and_nothing_else(store: MemoryStore, sql: str) -> None:
    with pytest.raises(ConfigError, match="SQL"):
        ask(database(store, T0_MS, T0_MS + 60_000), sql)


class Watched(MemoryStore):
    """Remembers what was read."""

    def read(self, key: str, unless_etag: str = "") -> Stored | None:
        """See `ObjectStore.read`."""
        self.objects.setdefault("seen", b"")
        self.objects["seen"] += key.encode() + b"\n"
        return MemoryStore.read(self, key, unless_etag)


def test_only_what_a_query_names_is_read() -> None:
    store = Watched()
    fill(store, T0_MS)
    sql = "SELECT count(*) FROM RTT"

    base = database(store, T0_MS, T0_MS + 60_000, kinds_in(sql))

    assert ask(base, sql)[1] != [(0,)]
    assert ask(base, "SELECT count(*) FROM signal")[1] == [(0,)]
    seen = store.objects["seen"].decode().split()
    assert len(seen) == 3
    assert all("kind=rtt" in key for key in seen)


def test_an_empty_store_has_empty_tables() -> None:
    base = database(MemoryStore(), T0_MS, T0_MS + 60_000)

    assert ask(base, "SELECT count(*) FROM rtt")[1] == [(0,)]


def test_history_of_a_pop_has_quantiles_loss_queries_and_load(store: MemoryStore) -> None:
    base = database(store, T0_MS, T0_MS + 60_000)

    (ams1,) = commands._of_pop(base, "ams1", 60_000)
    (fra1,) = commands._of_pop(base, "fra1", 60_000)

    assert (ams1["samples"], ams1["loss"], ams1["load_bps"]) == (6, 0.5, None)
    assert ams1["p50_ms"] == pytest.approx(20, rel=0.01)
    assert (fra1["samples"], fra1["loss"], fra1["queries"]) == (9, 0, 60)
    assert fra1["p50_ms"] == pytest.approx(10, rel=0.01)
    assert fra1["p95_ms"] == pytest.approx(30, rel=0.01)
    assert fra1["load_bps"] == 5e9


@pytest.mark.parametrize(
    ("asked", "pops"),
    [
        ("10.0.1.0/24", {"ams1": None, "fra1": 30}),
        ("10.0.1.77", {"ams1": None, "fra1": 30}),
        ("2001:db8::1", {"fra1": 5}),
    ],
)
def test_history_of_a_prefix_has_every_pop(
    store: MemoryStore, asked: str, pops: dict[str, float | None]
) -> None:
    rows = commands._of_prefix(database(store, T0_MS, T0_MS + 60_000), asked, 60_000)

    assert {row["pop"]: row["p50_ms"] for row in rows} == {
        pop: None if ms is None else pytest.approx(ms, rel=0.01) for pop, ms in pops.items()
    }


def test_the_commands_read_the_bucket(
    local_aws: Aws, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = "history"
    s3(local_aws).create_bucket(
        Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    path = tmp_path / "popsteer.toml"
    path.write_text(
        "".join(f'[[pop]]\nid = "{pop}"\nipv4 = ["192.0.2.1"]\n' for pop in POPS)
        + f'[aws]\nendpoint = "{local_aws.endpoint}"\nbucket = "{bucket}"\n'
    )
    own = Aws(endpoint=local_aws.endpoint, bucket=bucket)
    fill(s3_store(own), clock.now_ms() // 10_000 * 10_000 - 40_000)

    assert cli.run(["history", "fra1", "--config", str(path)]) == 0
    assert "5.00 Gbit/s" in capsys.readouterr().out
    assert cli.run(["history", "10.0.0.0/24", "--config", str(path)]) == 0
    assert "fra1 ms  ams1 ms" in capsys.readouterr().out
    assert (
        cli.run(["query", "SELECT sum(count)::INT n FROM rtt", "--json", "--config", str(path)])
        == 0
    )
    assert json.loads(capsys.readouterr().out) == [{"n": 15}]
    assert cli.run(["history", "fra2", "--config", str(path)]) == 2
    assert "did you mean fra1" in capsys.readouterr().err
