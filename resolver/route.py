"""Which POP a client is sent to, and why: pure, so that `explain` and the simulator run the same.

Owns the rule of choice and the vocabulary of reasons. It never reads a clock, a file or a random
number: the table, the outlook and the draw come in as arguments.

The rule. Candidates come in tiers: the table's row of the client, then the table's default order,
then the order of the configuration. In the first tier where a candidate can serve, one is taken by
its share; from there the choice walks down the ranks, and round to the top, past candidates that
cannot serve and, for the share that they shed, past those that shed. If nobody can serve, a
drained POP that is up comes before one that is down; and if all are down the best ranked one
stays, because a monitor is wrong more often than every POP is down at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import ip_address

from popsteer.config import Config, Health, Service
from popsteer.names import Prefix, dns_name
from popsteer.state import State
from popsteer.table import NO_POP, NO_RTT, SHARE_WHOLE, Table

DRAW_BITS = 48
"""A draw is so many random bits: 16 for the share, 16 for shedding, 16 for rotation."""
PART_BITS = 16
PART = 1 << PART_BITS
"""How many values each of these three has."""
FALLBACK_POPS_MAX = 8


class Reason(StrEnum):
    """What became of a candidate."""

    CHOSEN = "chosen"
    PASSED = "passed"
    """It can serve; this draw fell to a better rank or to another share."""
    SHED = "shed"
    """It can serve; its load loop sends this draw on to the next candidate."""
    DRAINED = "drained"
    """An operator's order takes it out."""
    DOWN = "down"
    """This node's own checks say so."""
    REPORTED_DOWN = "reported_down"
    """The planner's fresh state says so."""
    NO_ADDRESS = "no_address"
    """It has no address in the family that was asked for."""
    NOT_IN_SERVICE = "not_in_service"
    """The service does not name it."""
    UNKNOWN = "unknown"
    """The table names it, this node's configuration does not."""


class Tier(StrEnum):
    """Where the rank of a candidate comes from."""

    TABLE = "table"
    DEFAULT = "default"
    CONFIG = "config"


@dataclass(frozen=True, slots=True)
class Steered:
    """A service as the answer path needs it."""

    name: str
    ttl_s: int
    pops: tuple[str, ...]
    """The POPs that may serve it, in the order of the configuration."""
    halted: bool = False
    """It answers SERVFAIL; see `Outlook.halted`."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Packed addresses by POP; a POP without one in a family has an empty tuple."""

    ipv4: Mapping[str, tuple[bytes, ...]]
    ipv6: Mapping[str, tuple[bytes, ...]]

    def addresses(self, pop: str, ipv6: bool) -> tuple[bytes, ...]:
        """Of one POP in one family."""
        return (self.ipv6 if ipv6 else self.ipv4).get(pop, ())

    def fallback(self, service: Steered, ipv6: bool) -> tuple[bytes, ...]:
        """What a server that cannot steer answers: the first address of the first POPs.

        Several, so that no POP gets everybody and a dead one is passed over by clients.
        """
        first = [found[0] for pop in service.pops if (found := self.addresses(pop, ipv6))]
        return tuple(first[:FALLBACK_POPS_MAX])


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the inner loops say of the POPs now."""

    down: frozenset[str] = frozenset()
    reported_down: frozenset[str] = frozenset()
    drained: frozenset[str] = frozenset()
    shed: Mapping[str, float] = field(default_factory=dict)
    """Share of a POP's answers that go on to the next candidate, 0 to 1."""
    doubted: bool = False
    """So much looks down that no source is believed."""
    halted: bool = False
    """Steered names answer SERVFAIL, so that resolvers ask another node."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One POP that was considered."""

    pop: str
    tier: Tier
    share: int
    """Of 255."""
    rtt_ms: float | None
    reason: Reason


@dataclass(frozen=True, slots=True)
class Decision:
    """What is answered and the whole account of it."""

    pop: str | None
    """None when no POP of the service has an address in the family."""
    addresses: tuple[bytes, ...]
    """The POP's, packed, in the order of the answer."""
    scope: int
    """ECS scope prefix-length: the bits of the client that the answer depends on."""
    row: int
    """Of the table; -1 when none covers the client."""
    last_resort: bool
    """Nobody could serve."""
    candidates: tuple[Candidate, ...]
    """All that were considered, best rank first."""


def fleet_of(config: Config) -> Fleet:
    """The addresses in a configuration.

    Raises:
        ValueError: not an IP address, or of the other family.
    """
    return Fleet(
        {pop.id: tuple(_packed(a, 4) for a in pop.ipv4) for pop in config.pop},
        {pop.id: tuple(_packed(a, 6) for a in pop.ipv6) for pop in config.pop},
    )


def _packed(text: str, version: int) -> bytes:
    address = ip_address(text)
    if address.version != version:
        raise ValueError(f"{text} is not an IPv{version} address")
    return address.packed


def steered_of(config: Config, service: Service) -> Steered:
    """A service of a configuration."""
    return Steered(dns_name(service.name), service.ttl_s, tuple(config.pops_of(service)))


def outlook_of(
    checked_down: frozenset[str], state: State | None, now_ms: int, panic_share: float, pops: int
) -> Outlook:
    """Join this node's checks with the planner's state.

    Own checks rule; a fresh state can take a POP down too. A source that calls more than
    `panic_share` of `pops`, or all, down is doubted and says nothing, and so are both together.
    The outlook is doubted where own checks are and no other source speaks in their place. A drain
    is an order, not a measurement: it holds though the state has expired.
    """
    fresh = state is not None and now_ms < state.expires_ms
    known = state.pops if state else {}
    reported = frozenset(p for p, one in known.items() if not one.up) if fresh else frozenset()
    nobody: frozenset[str] = frozenset()
    own_doubted, their_doubted = (_panic(d, panic_share, pops) for d in (checked_down, reported))
    doubted = own_doubted and (their_doubted or not fresh)
    down = nobody if own_doubted else checked_down
    reported = nobody if their_doubted else reported
    if _panic(down | reported, panic_share, pops):
        down, reported, doubted = nobody, nobody, True
    return Outlook(
        down,
        reported,
        frozenset(p for p, one in known.items() if one.drained),
        {p: one.shed for p, one in known.items() if one.shed > 0} if fresh else {},
        doubted,
    )


def _panic(down: frozenset[str], panic_share: float, pops: int) -> bool:
    return len(down) > panic_share * pops or 0 < pops <= len(down)


def under_policy(outlook: Outlook, health: Health, pops: Sequence[str], good: Outlook) -> Outlook:
    """What a doubted outlook becomes under `health.all_down`; `good` is the last undoubted one."""
    if not outlook.doubted or health.all_down == "all":
        return outlook
    if health.all_down == "last_good":
        return replace(outlook, down=good.down, reported_down=good.reported_down)
    if health.all_down == "fallback":
        return replace(outlook, down=frozenset(pops) - {health.fallback})
    return replace(outlook, halted=True)


def decide(
    service: Steered,
    client: Prefix,
    ipv6: bool,
    table: Table | None,
    outlook: Outlook,
    fleet: Fleet,
    draw: int,
) -> Decision:
    """The POP for a client, as addresses of one family.

    Args:
        service: The steered name.
        client: The ECS prefix, or else the resolver's own address.
        ipv6: Which family of addresses is wanted.
        table: With the service's set of answers; None where this node has none.
        outlook: What the inner loops say.
        fleet: The addresses.
        draw: `DRAW_BITS` random bits.
    """
    table = table.answers_of(service.name) if table is not None else None
    row, scope = table.find(client) if table is not None else (-1, 0)
    seen: list[Candidate] = []
    share_draw, shed_draw, turn = (draw >> shift & PART - 1 for shift in (0, 16, 32))
    for tier in _tiers(table, row, service):
        known = {one.pop for one in seen}
        seen += [
            replace(one, reason=_fitness(one.pop, service, ipv6, outlook, fleet))
            for one in tier
            if one.pop not in known
        ]
        if any(one.reason is Reason.PASSED for one in seen):
            _walk(seen, _by_share(seen, share_draw), shed_draw, outlook)
            return _decision(seen, ipv6, fleet, turn, scope, row, last_resort=False)
    _last_resort(seen, ipv6, fleet)
    return _decision(seen, ipv6, fleet, turn, scope, row, last_resort=True)


def _tiers(table: Table | None, row: int, service: Steered) -> Iterator[Sequence[Candidate]]:
    """Candidates by tier; the later ones cost nothing unless they are needed."""
    if table is not None:
        if row >= 0:
            yield _row_candidates(table, row)
        yield [_unranked(pop, Tier.DEFAULT) for pop in table.meta.default]
    yield [_unranked(pop, Tier.CONFIG) for pop in service.pops]


def _row_candidates(table: Table, row: int) -> list[Candidate]:
    columns = (table.pop[row].tolist(), table.share[row].tolist(), table.rtt[row].tolist())
    return [
        Candidate(
            table.pops[pop],
            Tier.TABLE,
            share,
            None if rtt == NO_RTT else rtt / 10,
            Reason.PASSED,
        )
        for pop, share, rtt in zip(*columns, strict=True)
        if pop != NO_POP
    ]


def _unranked(pop: str, tier: Tier) -> Candidate:
    return Candidate(pop, tier, 0, None, Reason.PASSED)


def _fitness(pop: str, service: Steered, ipv6: bool, outlook: Outlook, fleet: Fleet) -> Reason:
    """PASSED when it can serve; else what keeps it from it, the most lasting reason first."""
    if pop not in fleet.ipv4:
        return Reason.UNKNOWN
    if pop not in service.pops:
        return Reason.NOT_IN_SERVICE
    if not fleet.addresses(pop, ipv6):
        return Reason.NO_ADDRESS
    if pop in outlook.down:
        return Reason.DOWN
    if pop in outlook.reported_down:
        return Reason.REPORTED_DOWN
    return Reason.DRAINED if pop in outlook.drained else Reason.PASSED


def _by_share(seen: Sequence[Candidate], share_draw: int) -> int:
    """Where the walk starts: the candidate into whose share the draw falls."""
    left = share_draw * SHARE_WHOLE >> PART_BITS
    for index, one in enumerate(seen):
        left -= one.share
        if left < 0:
            return index
    return 0


def _walk(seen: list[Candidate], start: int, shed_draw: int, outlook: Outlook) -> None:
    """Mark the first from `start` down the ranks and round that can serve and does not shed."""
    round_trip = [index % len(seen) for index in range(start, start + len(seen))]
    able = [index for index in round_trip if seen[index].reason is Reason.PASSED]
    chosen = able[0]  # stays where all shed: shedding would only move the load in a circle
    for index in able:
        part = min(PART, round(outlook.shed.get(seen[index].pop, 0.0) * PART))
        if shed_draw >= part:
            chosen = index
            break
        seen[index] = replace(seen[index], reason=Reason.SHED)
        # Given that it fell below `part`, the draw is uniform there: stretch it for the next.
        shed_draw = (shed_draw << PART_BITS) // part
    seen[chosen] = replace(seen[chosen], reason=Reason.CHOSEN)


def _last_resort(seen: list[Candidate], ipv6: bool, fleet: Fleet) -> None:
    """Mark the best that is only drained, else the best that has an address at all."""
    for wanted in ({Reason.DRAINED}, {Reason.DOWN, Reason.REPORTED_DOWN}):
        for index, one in enumerate(seen):
            if one.reason in wanted and fleet.addresses(one.pop, ipv6):
                seen[index] = replace(one, reason=Reason.CHOSEN)
                return


def _decision(
    seen: list[Candidate],
    ipv6: bool,
    fleet: Fleet,
    turn: int,
    scope: int,
    row: int,
    last_resort: bool,
) -> Decision:
    chosen = next((one.pop for one in seen if one.reason is Reason.CHOSEN), None)
    if chosen is None:
        # What does not depend on the client must not be cached per subnet (RFC 7871 §7.2.1).
        return Decision(None, (), 0, row, last_resort, tuple(seen))
    addresses = fleet.addresses(chosen, ipv6)
    first = turn % len(addresses)
    turned = addresses[first:] + addresses[:first]
    return Decision(chosen, turned, scope, row, last_resort, tuple(seen))
