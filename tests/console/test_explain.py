import io
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from console.explain import explain
from console.explain_text import render
from console.explanation import Candidate, Explanation
from console.published import View
from popsteer.config import Config, Health, Trust
from popsteer.errors import ConfigError
from popsteer.evidence import Reason, Source
from popsteer.names import Prefix
from popsteer.orders import Order, OrderKind, Orders
from popsteer.state import PopState
from resolver import route

MINUTE_MS = 60_000


def by_pop(told: Explanation) -> dict[str, Candidate]:
    return {one.pop: one for one in told.candidates}


def with_pop(view: View, pop: str, **changes: object) -> View:
    assert view.state is not None
    old = view.state.pops.get(pop, PopState())
    pops = view.state.pops | {pop: msgspec.structs.replace(old, **changes)}
    return replace(view, state=msgspec.structs.replace(view.state, pops=pops))


def order(kind: OrderKind, now_ms: int, **of: str) -> Order:
    return Order(
        id="o1",
        kind=kind,
        owner="alice",
        reason="fibre works",
        created_ms=now_ms,
        expires_ms=now_ms + 30 * MINUTE_MS,
        **of,  # type: ignore[arg-type]
    )


def test_the_answer_its_row_and_its_numbers(view: View, config: Config, now_ms: int) -> None:
    told = explain("10.0.0.9", None, view, config, now_ms)
    assert (told.pop, told.addresses) == ("fra1", ("192.0.2.1", "2001:db8::1"))
    assert (told.prefix, told.scope, told.measured) == ("10.0.0.0/24", 24, "10.0.0.0/24")
    assert told.rtt_ms == pytest.approx(8.1)
    assert (told.table_generation, told.table_age_s, told.data_age_s) == (7, 20, 30)
    assert told.state_age_s == 1
    assert told.notes == ()
    fra1 = by_pop(told)["fra1"]
    assert (fra1.samples, fra1.answers, fra1.rank) == (42, 1, 1)
    assert fra1.age_s == pytest.approx(24)  # 4 s when the table was made, 20 s ago
    assert fra1.spread_ms == pytest.approx(0.4)


def test_losers_say_the_rule_with_numbers(view: View, config: Config, now_ms: int) -> None:
    told = by_pop(explain("10.0.0.9", None, view, config, now_ms))
    assert told["fra1"].verdict == "chosen"
    assert told["lon1"].verdict == "slower by 7.1 ms"
    assert told["par1"].verdict == "full: 99% of its 82% target"
    assert told["par1"].price_ms == pytest.approx(6)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (Reason.UNMEASURED, "its RTT is inferred, not measured"),
        (Reason.NOT_WORTH_MOVING, "faster by 3.0 ms, but moving needs more than 8.0 ms"),
        (Reason.DOWN, "was down when the table was made"),
        (Reason.DRAINED, "was drained when the table was made"),
        (Reason.PINNED_ELSEWHERE, "the prefix is pinned to fra1"),
        (Reason.POLICY, "the policy prefers fra1"),
        (Reason.SLOWER, "faster by 3.0 ms; ranked behind"),
    ],
)
def test_every_reason_of_the_planner_has_words(
    reason: Reason, words: str, view: View, config: Config, now_ms: int
) -> None:
    assert view.evidence is not None
    reasons = view.evidence.reason.copy()
    reasons[2] = reason
    changed = replace(view, evidence=replace(view.evidence, reason=reasons))
    assert by_pop(explain("10.0.0.9", None, changed, config, now_ms))["par1"].verdict == words


def test_split_prefixes_tell_each_share(view: View, config: Config, now_ms: int) -> None:
    told = by_pop(explain("10.0.1.0/24", None, view, config, now_ms))
    assert told["fra1"].answers == pytest.approx(0.6)
    assert told["fra1"].verdict == "chosen: takes 60% of the answers"
    assert told["lon1"].verdict == "takes 40% of the answers"


def test_a_shedding_pop_keeps_its_part(view: View, config: Config, now_ms: int) -> None:
    told = by_pop(explain("10.0.0.9", None, with_pop(view, "fra1", shed=0.25), config, now_ms))
    assert told["fra1"].answers == pytest.approx(0.75, abs=0.011)
    assert told["fra1"].verdict == "chosen: takes 75% of the answers and sheds 25%"
    assert told["lon1"].answers == pytest.approx(0.25, abs=0.011)


def test_a_down_pop_is_passed_with_the_reason(view: View, config: Config, now_ms: int) -> None:
    down = with_pop(view, "fra1", up=False, reason="no signal for 12 s")
    told = explain("10.0.0.9", None, down, config, now_ms)
    assert told.pop == "lon1"
    assert by_pop(told)["fra1"].verdict == "down: no signal for 12 s"


def test_a_drain_names_who_and_why(view: View, config: Config, now_ms: int) -> None:
    drained = with_pop(view, "fra1", drained=True)
    drained = replace(drained, orders=Orders(orders=(order(OrderKind.DRAIN, now_ms, pop="fra1"),)))
    told = explain("10.0.0.9", None, drained, config, now_ms)
    assert told.pop == "lon1"
    assert by_pop(told)["fra1"].verdict == "drained by alice: fibre works"
    assert told.orders == ("drain fra1 for 30 min more, by alice: fibre works",)


def test_only_orders_that_bear_on_the_client_are_told(
    view: View, config: Config, now_ms: int
) -> None:
    orders = (
        order(OrderKind.PIN, now_ms, prefix="10.0.0.0/16", pop="fra1"),
        order(OrderKind.PIN, now_ms, prefix="10.7.0.0/16", pop="fra1"),
        order(OrderKind.DRAIN, now_ms, pop="elsewhere"),
        msgspec.structs.replace(order(OrderKind.FREEZE, now_ms), expires_ms=now_ms),
    )
    told = explain("10.0.0.9", None, replace(view, orders=Orders(orders=orders)), config, now_ms)
    assert [text.partition(" for ")[0] for text in told.orders] == ["pin 10.0.0.0/16 to fra1"]
    assert told.candidates[0].verdict == "pinned by alice: fibre works"


def test_of_pins_within_each_other_the_longest_is_named(
    view: View, config: Config, now_ms: int
) -> None:
    wide = order(OrderKind.PIN, now_ms, prefix="10.0.0.0/8", pop="lon1")
    narrow = msgspec.structs.replace(
        order(OrderKind.PIN, now_ms, prefix="10.0.0.0/16", pop="fra1"), owner="bob"
    )
    told = explain(
        "10.0.0.9", None, replace(view, orders=Orders(orders=(wide, narrow))), config, now_ms
    )
    assert told.candidates[0].verdict == "pinned by bob: fibre works"


def test_outside_the_table_the_default_order_answers(
    view: View, config: Config, now_ms: int
) -> None:
    told = explain("172.16.0.1", None, view, config, now_ms)
    assert (told.pop, told.prefix) == ("par1", None)
    assert "default order" in told.notes[0]


def test_with_nothing_published_the_order_of_the_file_answers(config: Config, now_ms: int) -> None:
    told = explain("10.0.0.9", None, View(), config, now_ms)
    assert (told.pop, told.table_generation, told.data_age_s) == ("fra1", None, None)
    assert any("no table" in note for note in told.notes)
    assert any("no POP state" in note for note in told.notes)


def test_an_expired_state_is_said_and_not_obeyed(view: View, config: Config, now_ms: int) -> None:
    told = explain("10.0.0.9", None, with_pop(view, "fra1", up=False), config, now_ms + 40_000)
    assert told.pop == "fra1"
    assert any("expired 31 s ago" in note for note in told.notes)


def test_doubted_reports_are_said(view: View, config: Config, now_ms: int) -> None:
    config = msgspec.structs.replace(config, health=Health())
    both = with_pop(with_pop(view, "fra1", up=False), "lon1", up=False)
    told = explain("10.0.0.9", None, both, config, now_ms)
    assert told.pop == "fra1"
    assert any("2 of 3 POPs look down at once" in note for note in told.notes)


def test_without_keys_dns_nodes_load_nothing_and_explain_says_so(
    view: View, config: Config, now_ms: int
) -> None:
    keyless = msgspec.structs.replace(config, trust=Trust())
    told = explain("2001:db8:1::1", None, view, keyless, now_ms)
    assert (told.pop, told.prefix) == ("fra1", None)
    assert told.notes[0].startswith("trust.public_keys is empty")


def test_a_wide_prefix_says_that_it_holds_more(view: View, config: Config, now_ms: int) -> None:
    told = explain("10.0.0.0/16", None, view, config, now_ms)
    assert any("holds 2 rows" in note for note in told.notes)


@pytest.mark.parametrize(
    ("asked", "name", "words"),
    [
        ("nonsense", None, "nonsense"),
        ("10.0.0.1/8", None, "host bits"),
        ("10.0.0.1", "ww.cdn.example", "did you mean www.cdn.example"),
    ],
)
def test_what_cannot_be_explained_is_one_sentence(
    asked: str, name: str | None, words: str, view: View, config: Config, now_ms: int
) -> None:
    with pytest.raises(ConfigError, match=words):
        explain(asked, name, view, config, now_ms)


def test_json_and_screen_tell_the_same(view: View, config: Config, now_ms: int) -> None:
    told = explain("10.0.0.9", "IMG.cdn.example", view, config, now_ms)
    document = msgspec.json.decode(msgspec.json.encode(told))
    assert document["name"] == "img.cdn.example."
    screen = io.StringIO()
    Console(width=120, file=screen).print(render(told))
    text = screen.getvalue()
    for words in ("fra1", "192.0.2.1", "8.1 ms expected", "ECS scope /24", "slower by 7.1 ms"):
        assert words in text
    assert len(text.splitlines()) < 24


@given(
    address=st.sampled_from(["10.0.0.9", "10.0.1.9", "192.168.0.1", "2001:db8:1::1"]),
    up=st.tuples(*[st.booleans()] * 3),
    drained=st.tuples(*[st.booleans()] * 3),
    shed=st.tuples(*[st.sampled_from([0.0, 0.3, 1.0])] * 3),
    seed=st.integers(0, 2**32),
)
def test_it_never_disagrees_with_dns(
    address: str,
    up: tuple[bool, ...],
    drained: tuple[bool, ...],
    shed: tuple[float, ...],
    seed: int,
    fixed: tuple[View, Config, int],
) -> None:
    """Shares of answers are those of the resolver's own function under random draws."""
    view, config, now_ms = fixed
    for i, pop in enumerate(("fra1", "lon1", "par1")):
        view = with_pop(view, pop, up=up[i], drained=drained[i], shed=shed[i])
    told = explain(address, None, view, config, now_ms)
    outlook = route.outlook_of(frozenset(), view.state, now_ms, 1.0, 3)
    draws = np.random.default_rng(seed).integers(0, 1 << route.DRAW_BITS, 200).tolist()
    service = route.steered_of(config, config.service[0])
    answers = [
        route.decide(
            service, Prefix.of_address(address), False, view.table, outlook,
            route.fleet_of(config), draw,
        ).pop
        for draw in draws
    ]  # fmt: skip
    expected = {one.pop: one.answers for one in told.candidates}
    assert sum(expected.values()) == pytest.approx(1, abs=0.01)
    for pop, part in expected.items():
        # Five standard deviations of 200 draws, and the strata of shedding.
        assert abs(answers.count(pop) / 200 - part) < 5 * (0.25 / 200) ** 0.5 + 0.02
        if part == 0:
            assert pop not in answers


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (Source.WIDER, "its RTT is inferred from a wider prefix, not measured"),
        (Source.NETWORK, "its RTT is inferred from its network, not measured"),
        (Source.PLACE, "its RTT is inferred from the map, not measured"),
    ],
)
def test_it_says_where_an_inferred_rtt_comes_from(
    source: Source, words: str, view: View, config: Config, now_ms: int
) -> None:
    assert view.evidence is not None
    reasons, sources = view.evidence.reason.copy(), view.evidence.source.copy()
    reasons[2], sources[2], sources[0] = Reason.UNMEASURED, source, source
    changed = replace(view, evidence=replace(view.evidence, reason=reasons, source=sources))
    told = by_pop(explain("10.0.0.9", None, changed, config, now_ms))
    assert told["par1"].verdict == words
    assert told["fra1"].verdict == f"chosen; {words}"


def test_a_service_of_few_pops_names_them(view: View, config: Config, now_ms: int) -> None:
    few = msgspec.structs.replace(config.service[0], pops=("fra1", "par1"))
    told = explain("10.0.0.9", None, view, msgspec.structs.replace(config, service=(few,)), now_ms)
    assert "2 of 3 POPs may serve this name: fra1, par1" in told.notes
