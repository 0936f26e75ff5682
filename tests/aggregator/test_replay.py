"""A recording replayed: the same bytes on every run, whatever shards the sources are on."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator import recording
from aggregator.recording import FILE_MS, About, Recorded
from aggregator.replay import Outcome, replay
from popsteer import orders
from popsteer.errors import ConfigError
from popsteer.names import SourceId
from popsteer.orders import Order, OrderKind
from popsteer.samples import (
    BULK_STREAM,
    URGENT_STREAM,
    DemandBatch,
    Header,
    RttBatch,
    Signal,
    SignalBatch,
    encode,
)
from popsteer.store import MemoryStore
from popsteer.table import CURRENT_KEY

T0_MS = 1_700_000_000_000
POPS = ("ams1", "fra1", "lhr1")
PREFIXES = 12
CONFIG = """
[dns]
zones = []
[[service]]
name = "www.cdn.example."
""" + "".join(
    f'[[pop]]\nid = "{pop}"\nipv4 = ["192.0.2.{n}"]\ncapacity_bps = 1e9\n'
    for n, pop in enumerate(POPS, 1)
)


def rtt_record(source: str, number: int, arrival_ms: int, rng: np.random.Generator) -> Recorded:
    n = PREFIXES * len(POPS)
    row, pop = np.divmod(np.arange(n), len(POPS))
    row += 5 * int(
        source.removeprefix("agent").removesuffix(".rtt")
    )  # each has prefixes of its own
    batch = RttBatch(
        Header(SourceId(source), number, arrival_ms - 800, POPS),
        rng.integers(0, 700, n).astype(np.uint32),
        (row + 1).astype(np.uint64) << np.uint64(40),
        np.full(n, 24, np.uint8),
        pop.astype(np.uint16),
        (10_000 + 5_000 * ((row + pop) % 3) + rng.integers(0, 900, n)).astype(np.uint32),
        np.zeros(n, np.uint8),
        np.zeros(n, np.uint8),
    )
    return Recorded(arrival_ms, BULK_STREAM, source, number, encode(batch))


def demand_record(source: str, number: int, arrival_ms: int, rng: np.random.Generator) -> Recorded:
    n = PREFIXES
    batch = DemandBatch(
        Header(SourceId(source), number, arrival_ms - 100, POPS),
        np.zeros(n, np.uint32),
        np.arange(1, n + 1).astype(np.uint64) << np.uint64(40),
        np.full(n, 24, np.uint8),
        rng.integers(0, len(POPS), n).astype(np.uint16),
        rng.integers(1, 9, n).astype(np.uint32),
        (rng.random(n) * 1e8).astype(np.float32),
    )
    return Recorded(arrival_ms, BULK_STREAM, source, number, encode(batch))


def signal_record(pop: str, number: int, arrival_ms: int) -> Recorded:
    header = Header(SourceId(f"{pop}.signal"), number, arrival_ms - 50, (pop,))
    zero = np.zeros(2, np.uint32)
    kinds = np.array([Signal.UP, Signal.LOAD_BPS], np.uint8)
    batch = SignalBatch(header, zero, zero.astype(np.uint16), kinds, np.array([1.0, 2e8]))
    return Recorded(arrival_ms, URGENT_STREAM, f"{pop}.signal", number, encode(batch))


def records(seed: int, seconds: int, sources: int) -> list[Recorded]:
    """Agents and DNS nodes that report now and then, retries and garbage among them."""
    rng = np.random.default_rng(seed)
    made: list[Recorded] = []
    for second in range(seconds):
        at_ms = T0_MS + 1_000 * second
        made += [signal_record(pop, second, at_ms + 90) for pop in POPS]
        for s in range(sources):
            jitter_ms = int(rng.integers(0, 1_000))
            made.append(rtt_record(f"agent{s}.rtt", second, at_ms + jitter_ms, rng))
            made.append(demand_record(f"node{s}.demand", second, at_ms + jitter_ms, rng))
        if rng.random() < 0.3:
            made.append(sent_again(made[int(rng.integers(0, len(made)))], at_ms))
        if rng.random() < 0.1:
            made.append(Recorded(at_ms, BULK_STREAM, "broken", second, b"no batch"))
    return made


def sent_again(record: Recorded, arrival_ms: int) -> Recorded:
    """A retry: the same bytes, later."""
    later = max(record.arrival_ms, arrival_ms)
    return Recorded(later, record.stream, record.key, record.sequence + 10**9, record.data)


def write(folder: Path, made: list[Recorded], seconds: int) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / recording.CONFIG).write_text(CONFIG)
    files: dict[int, list[Recorded]] = {}
    for record in made:
        files.setdefault(record.arrival_ms // FILE_MS * FILE_MS, []).append(record)
    for start_ms, inside in files.items():
        recording.write_file(folder, start_ms, inside)
    end_ms = T0_MS + 1_000 * seconds
    about = About(first_ms=T0_MS, last_ms=end_ms, records=len(made))
    recording.write_about(folder, about)
    return folder


def again(folder: Path, shards: int) -> Outcome:
    return replay(folder, shards, lambda _: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("recording") / "one", records(1, 65, 3), 65)


def test_two_replays_give_the_same_bytes(folder: Path) -> None:
    first, second = again(folder, 2), again(folder, 2)

    assert first == second
    assert first.tables >= 2
    assert first.rows > 0


def test_a_replay_counts_every_record(folder: Path) -> None:
    made = records(1, 65, 3)
    garbage = sum(record.data == b"no batch" for record in made)
    retries = len(made) - len({(r.key, r.data) for r in made if r.data != b"no batch"}) - garbage

    outcome = again(folder, 1)

    assert outcome.records == len(made)
    assert outcome.duplicates == retries > 0
    assert outcome.quarantined == {"arrow": garbage}
    samples = (len(made) - garbage - retries - 65 * 3) // 2 * (PREFIXES * 4) + 65 * 3 * 2
    assert outcome.samples == samples


def test_what_light_could_not_make_is_refused_on_every_number_of_shards(tmp_path: Path) -> None:
    made = records(1, 25, 3)
    place = 'id = "fra1"\nlocation = [50.03, 8.57]'
    folder = write(tmp_path / "recording", made, 25)
    (folder / recording.CONFIG).write_text(CONFIG.replace('id = "fra1"', place))
    # One of the prefixes that the first agent alone measures, once a second, in 10 to 21 ms.
    (folder / recording.LOCATIONS).write_text("prefix,latitude,longitude\n0.0.1.0/24,-34,151\n")

    one, two, four = (again(folder, shards) for shards in (1, 2, 4))

    assert one.quarantined["light"] == 25
    assert one.quarantined == two.quarantined == four.quarantined
    assert one.sums_sha256 == two.sums_sha256 == four.sums_sha256
    assert one.table_sha256 == two.table_sha256 == four.table_sha256


def test_a_changed_sample_changes_every_digest(folder: Path, tmp_path: Path) -> None:
    made = records(1, 65, 3)
    made[-1] = rtt_record("agent0.rtt", 64, T0_MS + 64_500, np.random.default_rng(99))

    other, same = again(write(tmp_path / "other", made, 65), 1), again(folder, 1)

    assert other.sums_sha256 != same.sums_sha256
    assert other.partials_sha256 != same.partials_sha256


@settings(max_examples=6)
@given(seed=st.integers(0, 10**6), sources=st.integers(1, 5))
def test_shards_change_neither_the_sums_nor_the_table(
    tmp_path_factory: pytest.TempPathFactory, seed: int, sources: int
) -> None:
    folder = write(tmp_path_factory.mktemp("replay") / "any", records(seed, 45, sources), 45)

    one, two, four = (again(folder, shards) for shards in (1, 2, 4))

    assert one.tables > 0
    assert one.sums_sha256 == two.sums_sha256 == four.sums_sha256
    assert one.table_sha256 == two.table_sha256 == four.table_sha256
    assert (one.samples, one.duplicates) == (four.samples, four.duplicates)


def test_orders_hold_from_their_time_on(tmp_path: Path) -> None:
    folder = write(tmp_path / "drained", records(3, 65, 1), 65)
    drain = Order(
        id="drain-1",
        kind=OrderKind.DRAIN,
        pop="fra1",
        owner="test",
        reason="test",
        created_ms=T0_MS + 30_000,
        expires_ms=T0_MS + 10**7,
    )
    (folder / recording.ORDERS).mkdir()
    body = msgspec.json.encode(orders.Orders(orders=(drain,)))
    (folder / recording.ORDERS / f"{T0_MS + 30_000:013d}.json").write_bytes(body)
    store = MemoryStore()

    drained, free = (
        replay(folder, 1, lambda _: None, store),
        again(write(tmp_path / "free", records(3, 65, 1), 65), 1),
    )

    assert drained.sums_sha256 == free.sums_sha256
    assert drained.table_sha256 != free.table_sha256
    assert store.read(CURRENT_KEY) is not None


def test_a_folder_that_is_no_recording_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"recording\.json: no such file.*popsteer record"):
        again(tmp_path, 1)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    broken = write(tmp_path / "broken", records(2, 5, 1), 5)
    path = next((broken / recording.RECORDS).iterdir())
    path.write_bytes(path.read_bytes()[:-20])

    with pytest.raises(ConfigError, match=f"{path.name}.*record it again"):
        again(broken, 1)
