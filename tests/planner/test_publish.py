"""Publishing by conditional writes: races, orphans, foreign signatures, bounds."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aggregator import publish
from aggregator.publish import Publisher, refused_key
from benchmarks.scene import T0_MS, make_scene
from popsteer import state as state_format
from popsteer import table as table_format
from popsteer import table_log
from popsteer.evidence import Evidence, key
from popsteer.signing import Signer, verifier
from popsteer.state import PopState, State
from popsteer.store import MemoryStore
from popsteer.table import CURRENT_KEY, NO_POP, Pointer, Table, TableMeta, build
from popsteer.table import key as table_key

SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
TRUSTED = verifier((SIGNER.public_hex,))
FLOATS = np.zeros(1, np.float32)
EVIDENCE = Evidence(
    generation=1,
    created_ms=T0_MS,
    pops=("a", "b"),
    net=np.zeros(1, np.uint64),
    plen=np.full(1, 8, np.uint8),
    demand_bps=FLOATS,
    pop=np.zeros(1, np.uint16),
    rtt_us=FLOATS,
    spread_us=FLOATS,
    samples=FLOATS,
    age_s=FLOATS,
    loss=FLOATS,
    price_us=FLOATS,
    reason=np.zeros(1, np.uint8),
    source=np.zeros(1, np.uint8),
)


def table(pop: int = 0, generation: int = 1) -> Table:
    row = np.full((1, 8), NO_POP, np.uint16)
    share = np.zeros((1, 8), np.uint8)
    row[0, 0], share[0, 0] = pop, 255
    return build(
        TableMeta(generation=generation, created_ms=T0_MS),
        ("a", "b"),
        np.array([10 << 56], np.uint64),
        np.array([8], np.uint8),
        row,
        share,
        np.zeros((1, 8), np.uint16),
    )


def publisher(store: MemoryStore) -> Publisher:
    made = Publisher(store, SIGNER, TRUSTED)
    made.refresh()
    return made


def pointer(store: MemoryStore) -> Pointer:
    return msgspec.json.decode(store.objects[CURRENT_KEY], type=Pointer)


def test_a_table_is_published_signed_with_its_evidence() -> None:
    store = MemoryStore()

    mine = publisher(store)
    mine.publish(table())
    mine.witness(EVIDENCE)

    named = pointer(store)
    read = table_format.decode(store.objects[named.key], TRUSTED)
    assert (named.generation, read.meta.generation, named.key) == (1, 1, table_key(1))
    assert key(EVIDENCE.generation) in store.objects


def test_generations_rise_by_one_and_name_their_parent() -> None:
    store = MemoryStore()
    mine = publisher(store)

    for _ in range(3):
        mine.publish(table())

    assert pointer(store).generation == 3
    assert mine.in_force is not None
    assert mine.in_force.table.meta.parent == 2


def test_of_two_that_race_one_wins_and_the_other_goes_on_from_there() -> None:
    store = MemoryStore()
    mine, theirs = publisher(store), publisher(store)

    assert mine.publish(table(0)) is not None
    assert theirs.publish(table(1)) is None
    assert pointer(store).generation == 1
    assert theirs.in_force is not None
    assert theirs.in_force.table.meta.generation == 1
    done = theirs.publish(table(1))

    assert done is not None
    assert pointer(store).generation == done.meta.generation > 1


def test_a_number_taken_by_a_planner_that_died_is_skipped() -> None:
    store = MemoryStore()
    store.create(table_key(1), b"an orphan")

    done = publisher(store).publish(table())

    assert done is not None
    assert pointer(store).generation == 2
    assert store.objects[table_key(1)] == b"an orphan"


def test_a_delayed_planner_never_overwrites_a_newer_table() -> None:
    store = MemoryStore()
    late, quick = publisher(store), publisher(store)
    for _ in range(5):
        quick.publish(table(1))
    newest = store.objects[CURRENT_KEY]

    late.publish(table(0))

    assert store.objects[CURRENT_KEY] == newest


def test_a_table_with_a_foreign_signature_is_not_taken_over() -> None:
    store = MemoryStore()
    stranger = Signer(Ed25519PrivateKey.generate())
    mine = publisher(store)
    mine.publish(table(0))
    other = Publisher(store, stranger, None)
    other.refresh()
    other.publish(table(1))

    assert not mine.refresh()

    assert mine.in_force is not None
    assert mine.in_force.table.meta.generation == 1


def test_an_old_table_under_a_new_name_is_not_taken_over() -> None:
    store = MemoryStore()
    theirs, mine = publisher(store), publisher(store)
    theirs.publish(table(0))
    theirs.publish(table(1))
    store.objects[table_key(2)] = store.objects[table_key(1)]

    assert not mine.refresh()
    assert mine.in_force is None


def test_a_truncated_table_is_not_taken_over() -> None:
    store = MemoryStore()
    theirs, mine = publisher(store), publisher(store)
    theirs.publish(table(0))
    store.objects[table_key(1)] = store.objects[table_key(1)][:-100]

    assert not mine.refresh()
    assert mine.in_force is None


def test_every_refused_table_is_kept_with_its_reason() -> None:
    store = MemoryStore()
    mine = publisher(store)
    meta = msgspec.structs.replace(table().meta, generation=7)

    for passed_ms, rule in ((0, "moved"), (30_000, "poisoned")):
        later = msgspec.structs.replace(meta, created_ms=T0_MS + passed_ms)
        mine.refuse(table().with_meta(later), rule, "a reason")

    kept = [refused_key(7, T0_MS), refused_key(7, T0_MS + 30_000)]
    refusals = [msgspec.json.decode(store.objects[key]) for key in kept]
    assert [one["rule"] for one in refusals] == ["moved", "poisoned"]
    assert all(key.replace("json", "arrow") in store.objects for key in kept)
    assert CURRENT_KEY not in store.objects


def test_the_log_tells_what_became_of_every_table_and_outlives_them() -> None:
    store = MemoryStore()
    mine = publisher(store)
    for _ in range(3):
        done = mine.publish(table())
        assert done is not None
        mine.note(done)
    mine.refuse(table(generation=4), "moved", "too much")
    mine.refuse(table(generation=5), "shadow", "plan.rollout is shadow")
    for stored in store.list(publish.TABLE_PREFIX):
        store.delete(stored)

    told = table_log.newest(store, 0, T0_MS + 5_000)

    assert [(one.generation, one.outcome) for one in told] == [
        (1, "published"),
        (2, "published"),
        (3, "published"),
        (4, "refused"),
        (5, "shadow"),
    ]
    assert (told[3].rule, told[3].reason) == ("moved", "too much")
    assert table_log.newest(store, 2, T0_MS + 5_000) == told[-2:]
    assert table_log.newest(store, 2, T0_MS + 90 * 24 * 3_600_000) == told[-2:]


def state(created_ms: int) -> State:
    return State(
        generation=0, created_ms=created_ms, expires_ms=created_ms + 10_000, pops={"a": PopState()}
    )


def test_state_generations_rise_through_changes_of_planner() -> None:
    store = MemoryStore()
    first, second = publisher(store), publisher(store)

    written = [first.state(state(T0_MS), 3_000)]
    written.append(second.state(state(T0_MS + 1_000), 3_000))
    written.append(first.state(state(T0_MS + 2_000), 3_000))
    written.append(second.state(state(T0_MS + 9_000), 3_000))
    written.append(first.state(state(T0_MS + 9_500), 3_000))

    first_of_all = written[0].generation if written[0] else 0
    told = [one.generation - first_of_all if one else None for one in written]
    assert told == [0, None, 1, 2, None]
    kept = state_format.decode(store.objects[state_format.KEY], TRUSTED)
    assert kept.generation == first_of_all + 2


def test_old_tables_and_evidence_are_swept() -> None:
    store = MemoryStore()
    mine = publisher(store)
    for _ in range(publish.TABLES_KEPT + 7):
        mine.publish(table())
        mine.witness(replace(EVIDENCE, generation=mine.next_generation - 1))
    mine.refuse(table(generation=3), "moved", "kept")

    mine.sweep()

    tables = store.list(publish.TABLE_PREFIX)
    assert len(tables) == publish.TABLES_KEPT
    assert pointer(store).key == tables[-1]
    assert len(store.list(publish.EVIDENCE_PREFIX)) == publish.EVIDENCE_KEPT
    assert refused_key(3, T0_MS) in store.objects


def test_two_thousand_prefixes_are_published_compactly() -> None:
    scene = make_scene(pops=20, prefixes=500)
    scene.measure()
    scene.now_ms += 10_000
    scene.planner.step(scene.now_ms)

    sizes = {k: len(v) for k, v in scene.store.objects.items()}

    assert sizes[table_key(1)] < 100_000
    assert sizes[key(1)] < 400_000


def test_a_pointer_that_goes_back_is_not_followed_and_is_replaced() -> None:
    store = MemoryStore()
    mine = publisher(store)
    mine.publish(table(0))
    old = store.objects[CURRENT_KEY]
    for _ in range(9):
        mine.publish(table(1))

    store.objects[CURRENT_KEY] = old

    assert not mine.refresh()
    assert mine.next_generation == 11
    done = mine.publish(table(1))
    assert done is not None
    assert pointer(store).generation == done.meta.generation == 11


def test_after_a_pointer_that_goes_back_a_new_planner_goes_on_above_all() -> None:
    store = MemoryStore()
    mine = publisher(store)
    mine.publish(table(0))
    old = store.objects[CURRENT_KEY]
    for _ in range(9):
        mine.publish(table(1))
    store.objects[CURRENT_KEY] = old

    done = publisher(store).publish(table(1))

    assert done is not None
    assert pointer(store).generation == 11


@pytest.mark.parametrize("lost", [True, False])
def test_a_lost_or_forged_pointer_neither_stops_the_planner_nor_sets_it_back(lost: bool) -> None:
    store = MemoryStore()
    mine = publisher(store)
    for _ in range(5):
        mine.publish(table(0))
    for swept in (1, 2):
        del store.objects[table_key(swept)]
    if lost:
        del store.objects[CURRENT_KEY]
    else:
        store.objects[CURRENT_KEY] = b"forged"

    fresh = publisher(store)
    done = fresh.publish(table(1))

    assert done is not None
    assert pointer(store).generation == done.meta.generation == 6
    assert table_format.decode(store.objects[table_key(6)], TRUSTED).meta.generation == 6


def test_a_planner_that_serves_replaces_a_forged_pointer() -> None:
    store = MemoryStore()
    mine = publisher(store)
    mine.publish(table(0))
    stranger = Publisher(store, Signer(Ed25519PrivateKey.generate()), None)
    stranger.refresh()
    stranger.publish(table(1))

    assert not mine.refresh()
    assert mine.publish(table(0)) is not None

    named = pointer(store)
    assert named.generation == 3
    assert table_format.decode(store.objects[named.key], TRUSTED).meta.generation == 3


def test_who_slept_says_nothing_of_the_pops_as_they_were() -> None:
    store = MemoryStore()
    sleeper, other = publisher(store), publisher(store)
    sleeper.state(state(T0_MS), 3_000)
    for passed_ms in range(4_000, 60_000, 2_000):
        other.state(state(T0_MS + passed_ms), 3_000)
    newest = store.objects[state_format.KEY]

    assert sleeper.state(state(T0_MS + 1_000), 3_000) is None

    assert store.objects[state_format.KEY] == newest


def test_a_planner_whose_clock_was_ahead_is_followed_when_it_falls_silent() -> None:
    store = MemoryStore()
    ahead, mine = publisher(store), publisher(store)
    ahead.state(state(T0_MS + 3_600_000), 3_000)

    written = [mine.state(state(T0_MS + s * 1_000), 3_000) for s in range(5)]

    assert [one is not None for one in written] == [False, False, False, True, True]


def test_a_state_that_is_not_believed_sets_no_generation_back() -> None:
    store = MemoryStore()
    before = publisher(store).state(state(T0_MS), 3_000)
    store.objects[state_format.KEY] = b"forged"

    after = publisher(store).state(state(T0_MS + 5_000), 3_000)

    assert before is not None
    assert after is not None
    assert after.generation > before.generation
