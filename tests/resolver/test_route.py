"""The choice of a POP, against a slow twin and by properties."""

from collections import Counter
from random import Random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popsteer.config import Health
from popsteer.names import Prefix, prefix_arrays
from popsteer.state import PopState, State
from popsteer.table import CANDIDATES_MAX, NO_POP, NO_RTT, Table, TableMeta, build
from resolver.route import (
    DRAW_BITS,
    Decision,
    Fleet,
    Outlook,
    Reason,
    Steered,
    Tier,
    decide,
    outlook_of,
    under_policy,
)

POPS = tuple("abcdef")
FLEET = Fleet(
    {pop: (bytes((10, 0, 0, i)),) for i, pop in enumerate(POPS)},
    {pop: (bytes(15) + bytes((i,)),) if pop in "abc" else () for i, pop in enumerate(POPS)},
)
SERVICE = Steered("www.example.", 20, POPS)
CLIENT = Prefix.parse("198.51.100.7")


def table_of(rows: dict[str, list[tuple[str, int]]], default: tuple[str, ...] = ()) -> Table:
    """A table from prefix -> [(pop, share)]."""
    net, plen = prefix_arrays(Prefix.parse(text) for text in rows)
    pop = np.full((len(rows), CANDIDATES_MAX), NO_POP, np.uint16)
    share = np.zeros((len(rows), CANDIDATES_MAX), np.uint8)
    rtt = np.full((len(rows), CANDIDATES_MAX), NO_RTT, np.uint16)
    for row, ranked in enumerate(rows.values()):
        for rank, (name, part) in enumerate(ranked):
            pop[row, rank] = POPS.index(name)
            share[row, rank] = part
    return build(TableMeta(generation=1, default=default), POPS, net, plen, pop, share, rtt)


def chosen(
    table: Table | None,
    outlook: Outlook | None = None,
    draw: int = 0,
    service: Steered = SERVICE,
    ipv6: bool = False,
) -> Decision:
    return decide(service, CLIENT, ipv6, table, outlook or Outlook(), FLEET, draw)


def reasons(decision: Decision) -> dict[str, Reason]:
    return {one.pop: one.reason for one in decision.candidates}


def shares_of(table: Table | None, outlook: Outlook, draws: int = 4_000) -> dict[str, float]:
    """Share of answers by POP over seeded draws."""
    rng = Random(7)
    counts = Counter(chosen(table, outlook, rng.getrandbits(DRAW_BITS)).pop for _ in range(draws))
    return {str(pop): count / draws for pop, count in counts.items()}


def test_the_row_of_the_client_decides() -> None:
    table = table_of({"198.51.100.0/24": [("b", 255), ("a", 0)], "203.0.113.0/24": [("c", 255)]})
    decision = chosen(table)
    assert (decision.pop, decision.scope) == ("b", 24)
    assert reasons(decision) == {"b": Reason.CHOSEN, "a": Reason.PASSED}


def test_without_a_row_the_default_order_decides_and_the_scope_touches_no_row() -> None:
    table = table_of({"198.51.101.0/24": [("b", 255)]}, default=("d", "e"))
    decision = chosen(table)
    assert (decision.pop, decision.row, decision.candidates[0].tier) == ("d", -1, Tier.DEFAULT)
    assert decision.scope == 24


def test_without_a_table_the_configuration_decides_for_everybody() -> None:
    decision = chosen(None)
    assert (decision.pop, decision.scope, decision.candidates[0].tier) == ("a", 0, Tier.CONFIG)


@pytest.mark.parametrize(
    ("outlook", "reason"),
    [
        (Outlook(down=frozenset("b")), Reason.DOWN),
        (Outlook(reported_down=frozenset("b")), Reason.REPORTED_DOWN),
        (Outlook(drained=frozenset("b")), Reason.DRAINED),
        (Outlook(shed={"b": 1.0}), Reason.SHED),
    ],
)
def test_a_pop_that_cannot_serve_is_passed_with_its_reason(
    outlook: Outlook, reason: Reason
) -> None:
    decision = chosen(table_of({"198.51.100.0/24": [("b", 255), ("a", 0)]}), outlook)
    assert decision.pop == "a"
    assert reasons(decision) == {"b": reason, "a": Reason.CHOSEN}


def test_a_pop_outside_the_service_or_unknown_here_is_passed() -> None:
    table = table_of({"198.51.100.0/24": [("b", 255), ("f", 0), ("a", 0)]})
    small = Fleet({k: v for k, v in FLEET.ipv4.items() if k != "f"}, FLEET.ipv6)
    service = Steered("www.example.", 20, ("a", "f"))
    decision = decide(service, CLIENT, False, table, Outlook(), small, 0)
    assert reasons(decision) == {
        "b": Reason.NOT_IN_SERVICE,
        "f": Reason.UNKNOWN,
        "a": Reason.CHOSEN,
    }


def test_when_no_candidate_of_the_row_lives_the_next_tier_is_asked() -> None:
    table = table_of({"198.51.100.0/24": [("a", 255), ("b", 0)]}, default=("b", "e"))
    decision = chosen(table, Outlook(down=frozenset("ab")))
    assert decision.pop == "e"
    assert not decision.last_resort
    assert [one.pop for one in decision.candidates] == ["a", "b", "e"]


def test_a_family_prefers_a_candidate_that_has_it_and_else_is_nodata() -> None:
    table = table_of({"198.51.100.0/24": [("d", 255), ("c", 0)]})
    decision = chosen(table, ipv6=True)
    assert decision.pop == "c"
    assert reasons(decision)["d"] is Reason.NO_ADDRESS
    nobody = chosen(table, ipv6=True, service=Steered("www.example.", 20, ("d", "e")))
    assert (nobody.pop, nobody.scope, nobody.addresses) == (None, 0, ())


def test_all_down_keeps_the_best_ranked_and_drained_comes_first() -> None:
    table = table_of({"198.51.100.0/24": [("b", 255), ("a", 0)]})
    assert chosen(table, Outlook(down=frozenset(POPS))).pop == "b"
    drained = Outlook(down=frozenset(POPS) - {"d"}, drained=frozenset("d"))
    decision = chosen(table, drained)
    assert (decision.pop, decision.last_resort) == ("d", True)


def test_shares_are_kept_and_shedding_moves_only_its_part() -> None:
    table = table_of({"198.51.100.0/24": [("a", 170), ("b", 85), ("c", 0)]})
    plain = shares_of(table, Outlook())
    assert plain["a"] == pytest.approx(2 / 3, abs=0.03)
    assert plain["b"] == pytest.approx(1 / 3, abs=0.03)
    shed = shares_of(table, Outlook(shed={"a": 0.5}))
    assert shed["a"] == pytest.approx(1 / 3, abs=0.03)
    assert shed["b"] == pytest.approx(2 / 3, abs=0.03)


def test_chained_shedding_multiplies() -> None:
    table = table_of({"198.51.100.0/24": [("a", 255), ("b", 0), ("c", 0)]})
    shed = shares_of(table, Outlook(shed={"a": 0.5, "b": 0.5}))
    assert shed["a"] == pytest.approx(0.5, abs=0.03)
    assert shed["b"] == pytest.approx(0.25, abs=0.03)
    assert shed["c"] == pytest.approx(0.25, abs=0.03)


def test_where_all_shed_all_the_first_keeps_its_answers() -> None:
    table = table_of({"198.51.100.0/24": [("a", 255), ("b", 0)]})
    assert shares_of(table, Outlook(shed={"a": 1.0, "b": 1.0}), draws=200) == {"a": 1.0}


def test_addresses_turn_with_the_draw() -> None:
    fleet = Fleet({"a": (b"1", b"2", b"3")}, {"a": ()})
    service = Steered("www.example.", 20, ("a",))
    turns = {
        decide(service, CLIENT, False, None, Outlook(), fleet, turn << 32).addresses
        for turn in range(6)
    }
    assert turns == {(b"1", b"2", b"3"), (b"2", b"3", b"1"), (b"3", b"1", b"2")}


def slow_choice(row: list[tuple[str, int]], outlook: Outlook, draw: int) -> str | None:
    """The rule in one breath: by share, then down and round, past who cannot or sheds."""
    able = [pop not in outlook.down | outlook.reported_down | outlook.drained for pop, _ in row]
    if not any(able):
        return None
    point, start = (draw & 0xFFFF) * 255 // 65_536, 0
    for start, (_, share) in enumerate(row):  # noqa: B007
        if point < share:
            break
        point -= share
    order = [i % len(row) for i in range(start, start + len(row)) if able[i % len(row)]]
    luck = draw >> 16 & 0xFFFF
    for i in order:
        part = round(outlook.shed.get(row[i][0], 0) * 65_536)
        if luck >= part:
            return row[i][0]
        luck = luck * 65_536 // part
    return row[order[0]][0]


rows = st.permutations(POPS[:4]).flatmap(
    lambda pops: st.tuples(st.just(pops), st.integers(0, 255), st.integers(0, 255))
)
subsets = st.frozensets(st.sampled_from(POPS[:4]))


@settings(max_examples=200)
@given(
    rows,
    subsets,
    subsets,
    st.dictionaries(st.sampled_from(POPS[:4]), st.floats(0, 1)),
    st.integers(0, 2**DRAW_BITS - 1),
)
def test_the_choice_equals_the_slow_twin(
    row: tuple[list[str], int, int],
    down: frozenset[str],
    drained: frozenset[str],
    shed: dict[str, float],
    draw: int,
) -> None:
    pops, one, two = row
    low, high = sorted((one, two))
    ranked = list(zip(pops, (low, high - low, 255 - high, 0), strict=True))
    outlook = Outlook(down=down, drained=drained, shed=shed)
    expected = slow_choice(ranked, outlook, draw)
    got = chosen(table_of({"198.51.100.0/24": ranked}), outlook, draw).pop
    assert got == expected if expected else got in POPS


def state(expires_ms: int, **pops: PopState) -> State:
    return State(generation=1, created_ms=0, expires_ms=expires_ms, pops=pops)


def test_an_expired_state_only_keeps_its_drains() -> None:
    said = state(100, a=PopState(up=False), b=PopState(shed=0.5), c=PopState(drained=True))
    fresh = outlook_of(frozenset(), said, 99, 0.5, 6)
    assert (fresh.reported_down, fresh.shed, fresh.drained) == (
        frozenset("a"),
        {"b": 0.5},
        frozenset("c"),
    )
    stale = outlook_of(frozenset(), said, 100, 0.5, 6)
    assert (stale.reported_down, stale.shed, stale.drained) == (frozenset(), {}, frozenset("c"))


def test_a_source_that_calls_too_many_down_is_doubted() -> None:
    said = state(100, a=PopState(up=False))
    joined = outlook_of(frozenset("bcde"), said, 0, 0.5, 6)
    assert (joined.down, joined.reported_down) == (frozenset(), frozenset("a"))
    both = outlook_of(frozenset("bcd"), said, 0, 0.5, 6)
    assert (both.down, both.reported_down) == (frozenset(), frozenset())
    half = outlook_of(frozenset("bcd"), None, 0, 0.5, 6)
    assert half.down == frozenset("bcd")


@pytest.mark.parametrize(
    ("checked", "said", "doubted"),
    [
        ("ab", None, False),
        ("abcd", None, True),
        ("abcd", state(100, a=PopState(up=False)), False),
        ("abcd", state(0, a=PopState(up=False)), True),
        ("abcd", state(100, **{pop: PopState(up=False) for pop in "abcd"}), True),
        ("ab", state(100, **{pop: PopState(up=False) for pop in "cd"}), True),
        ("", state(100, **{pop: PopState(up=False) for pop in POPS}), False),
    ],
)
def test_the_outlook_is_doubted_when_nobody_is_left_to_believe(
    checked: str, said: State | None, doubted: bool
) -> None:
    assert outlook_of(frozenset(checked), said, 1, 0.5, len(POPS)).doubted is doubted


def test_all_down_is_doubted_at_any_panic_share() -> None:
    assert outlook_of(frozenset(POPS), None, 0, 1.0, len(POPS)) == Outlook(doubted=True)
    assert len(outlook_of(frozenset(POPS[1:]), None, 0, 1.0, len(POPS)).down) == 5


def test_the_policy_says_what_a_doubted_outlook_becomes() -> None:
    doubted, good = Outlook(doubted=True), Outlook(down=frozenset("a"))

    def under(**keys: str) -> Outlook:
        health = msgspec.convert(keys, Health)
        return under_policy(doubted, health, POPS, good)

    assert under(all_down="all") == doubted
    assert under(all_down="last_good").down == {"a"}
    assert under(all_down="servfail").halted
    fallback = under(all_down="fallback", fallback="e")
    assert shares_of(table_of({"198.51.100.0/24": [("b", 255)]}), fallback, 50) == {"e": 1.0}
    assert under_policy(good, Health(all_down="servfail"), POPS, good) is good
