"""The fold against a slow obvious twin, through crashes at any point."""

from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popsteer.store import MemoryStore
from tests.aggregator.shard_scene import (
    SHARD,
    Checkpoints,
    FragileStore,
    Killed,
    Put,
    end,
    expected,
    give,
    origins,
    run_to_the_end,
    shards,
    started,
    written,
)

pytestmark = pytest.mark.usefixtures("exits_raise")


@given(shards())
@settings(max_examples=40)
def test_counts_are_those_of_the_twin(puts: list[Put]) -> None:
    store = MemoryStore()

    run_to_the_end(store, puts, Checkpoints())

    assert written(store) == expected(puts)
    told = origins(store)
    assert sum(o.records for o in told) == len(puts)
    assert sum(sum(o.quarantined.values()) for o in told) == sum(p.refused for p in puts)


@given(shards(), st.lists(st.tuples(st.integers(0, 5), st.sampled_from("bac")), max_size=4))
@settings(max_examples=60)
def test_crashes_anywhere_leave_the_same_bytes(
    puts: list[Put], crashes: list[tuple[int, str]]
) -> None:
    """b: before a write, a: after it, c: at a checkpoint; each after so many of its kind."""
    undisturbed, store, checkpoints = MemoryStore(), FragileStore(), Checkpoints()
    run_to_the_end(undisturbed, puts, Checkpoints())

    for lives, where in crashes:
        store.lives, store.after_write, checkpoints.lives = 10**9, where == "a", 10**9
        if where == "c":
            checkpoints.lives = lives
        else:
            store.lives = lives
        with suppress(Killed):
            run_to_the_end(store, puts, checkpoints)
    store.lives = checkpoints.lives = 10**9
    run_to_the_end(store, puts, checkpoints)

    assert store.objects == undisturbed.objects


def ticking(store: MemoryStore, puts: list[Put], ticks: list[int]) -> Iterator[None]:
    """A worker that reads the shard from its start; `ticks` is how often the clock cuts."""
    processor, checkpoints = started(store), Checkpoints()
    for place, put in enumerate(puts):
        give(processor, [put], checkpoints)
        yield
        if place in ticks:
            give(processor, [], checkpoints, behind_ms=0)
            yield
    end(processor, checkpoints)


@given(shards(), st.lists(st.integers(0, 13)), st.lists(st.integers(0, 13)), st.randoms())
@settings(max_examples=60)
def test_a_zombie_beside_the_owner_corrupts_nothing(
    puts: list[Put], ours: list[int], theirs: list[int], random: object
) -> None:
    """Two workers fold one shard at once and cut by clocks that disagree.

    The loser of a disagreement ends itself and is started again, as in production.
    """
    store = MemoryStore()
    workers = [ticking(store, puts, ours), ticking(store, puts, theirs)]
    turns = 0
    while workers:
        turns += 1
        assert turns < 1_000
        worker = workers[random.randrange(len(workers))]  # type: ignore[attr-defined]
        try:
            next(worker)
        except StopIteration:
            workers.remove(worker)
        except SystemExit:
            workers[workers.index(worker)] = ticking(store, puts, ours)

    assert written(store) == expected(puts)
    assert sum(o.records for o in origins(store)) == len(puts)


@given(shards(), st.integers(0, 13), st.booleans())
@settings(max_examples=60)
def test_children_of_a_split_drop_retries_of_their_parent(
    puts: list[Put], place: int, merged: bool
) -> None:
    """The shard is split (or merged away) at `place`; what follows arrives in its child."""
    store, child = MemoryStore(), "shardId-000000000007"
    before, after = puts[:place], puts[place:]
    run_to_the_end(store, before, Checkpoints())
    parents = (SHARD, "shardId-000000000002") if merged else (SHARD,)

    processor, checkpoints = started(store, parents, child), Checkpoints()
    for put in after:
        give(processor, [put], checkpoints)
    end(processor, checkpoints)

    assert written(store) == expected(puts)
