"""The outbox alone, under a clock of the test."""

from dataclasses import dataclass, field
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from popsteer.names import SourceId
from popsteer.outbox import (
    BACKOFF_S_MAX,
    BACKOFF_S_MIN,
    BYTES_PER_CALL_MAX,
    Outbox,
    Record,
)

RNG = Random(5)


def record(source: str, number: int, size: int = 10, segment: int | None = None) -> Record:
    return Record(SourceId(source), number.to_bytes(4, "big") * size, float(number), segment)


@dataclass
class Disk:
    """Takes so many records."""

    room: int = 1_000
    taken: list[Record] = field(default_factory=list)

    def take(self, one: Record) -> bool:
        """Keep a record, while there is room."""
        if len(self.taken) == self.room:
            return False
        self.taken.append(one)
        return True


@given(
    offered=st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=100)
def test_each_source_is_accepted_in_order_once(offered: list[tuple[str, bool]], seed: int) -> None:
    rng = Random(seed)
    box = Outbox(1 << 20)
    for number, (source, _) in enumerate(offered):
        assert box.push(record(source, number))
    accepted: list[Record] = []
    under_way: list[list[Record]] = []
    now = 0.0
    while len(box):
        now += 0.05
        if picked := box.pick(now):
            assert len({one.source for one in picked}) == len(picked)
            under_way.append(picked)
        if under_way and (rng.random() < 0.7 or not picked):
            call = under_way.pop(rng.randrange(len(under_way)))
            outcome = [rng.random() < 0.6 for _ in call]
            box.settle(call, outcome, now, rng)
            accepted += [one for one, done in zip(call, outcome, strict=True) if done]
    assert box.bytes == 0
    for source in "abc":
        got = [one.offered_s for one in accepted if one.source == source]
        assert got == [float(n) for n, (s, _) in enumerate(offered) if s == source]


def test_a_call_is_below_five_megabytes() -> None:
    box = Outbox(1 << 30)
    for number in range(10):
        box.push(record(f"s{number}", number, size=200_000))
    picked = box.pick(0.0)
    assert len(picked) == 6
    assert sum(one.bytes for one in picked) <= BYTES_PER_CALL_MAX


def test_fresh_records_go_before_those_from_disk() -> None:
    box = Outbox(1 << 20)
    box.push(record("old", 1, segment=7))
    box.push(record("new", 2))
    assert [one.source for one in box.pick(0.0)] == ["new", "old"]


def test_sources_take_turns() -> None:
    box = Outbox(1 << 30)
    for number in range(4):
        for source in "abcdefgh":
            box.push(record(source, number, size=200_000))
    seen: list[str] = []
    for _ in range(4):
        picked = box.pick(0.0)
        seen += [one.source for one in picked]
        box.settle(picked, [True] * len(picked), 0.0, RNG)
    assert {source: seen.count(source) for source in "abcdefgh"} == dict.fromkeys("abcdefgh", 3)


def test_waiting_between_attempts_grows_with_jitter_up_to_the_bound() -> None:
    box = Outbox(1 << 20)
    box.push(record("a", 1))
    now, waits = 0.0, []
    for _ in range(40):
        picked = box.pick(now)
        box.settle(picked, [False], now, RNG)
        ready = box.next_ready_s()
        assert ready is not None
        assert box.pick(ready - 1e-9) == []
        waits.append(ready - now)
        now = ready
    assert min(waits) >= BACKOFF_S_MIN - 1e-9
    assert 1.0 < max(waits) <= BACKOFF_S_MAX + 1e-9
    assert len(set(waits)) > 10


def test_memory_is_bounded() -> None:
    box = Outbox(200)
    assert box.push(record("a", 1))
    assert not box.push(record("a", 2, size=1_000))
    assert box.bytes <= 200


def test_an_evicted_record_that_is_under_way_is_settled_without_harm() -> None:
    box = Outbox(1 << 20)
    box.push(record("a", 1))
    picked = box.pick(0.0)
    disk = Disk()
    assert box.evict(SourceId("a"), disk.take)
    assert disk.taken == picked
    assert box.bytes == 0
    box.push(record("a", 2))
    assert box.pick(0.0) == []
    box.settle(picked, [True], 0.0, RNG)
    assert [one.offered_s for one in box.pick(1.0)] == [2.0]


def test_what_the_disk_refuses_stays_in_order() -> None:
    box = Outbox(1 << 20)
    for at in range(3):
        box.push(record("a", at))
    disk = Disk(room=1)

    assert not box.evict(SourceId("a"), disk.take)

    assert [one.offered_s for one in disk.taken] == [0.0]
    assert (len(box), box.fresh) == (2, 2)
    assert [one.offered_s for one in box.pick(0.0)] == [1.0]


def test_what_is_fresh_goes_to_disk_from_behind_what_came_from_there() -> None:
    box = Outbox(1 << 20)
    box.push(record("a", 1, segment=7))
    box.push(record("a", 2))
    box.push(record("a", 3))
    disk = Disk()

    assert box.stuck(2.5) == [SourceId("a")]
    assert box.evict(SourceId("a"), disk.take)

    assert [one.offered_s for one in disk.taken] == [2.0, 3.0]
    assert (box.fresh, len(box)) == (0, 1)
    assert box.stuck(1e9) == []
    assert [one.segment for one in box.pick(0.0)] == [7]
