"""All answers of the zones, worked out ahead by asking the slow path (`resolver.resolve`).

For every node and every type that the zones tell apart there are the answer at the node and the
answer below it, where a wildcard, a referral or NXDOMAIN stands for any name. Compression depends
on the spelling of the query (0x20), so there is one draft for each number of trailing labels that
are in lower case. What cannot be foreseen gets no draft and goes to the slow path.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resolver.fast.batch import NAME_BYTES
from resolver.fast.draft import Draft, UnforeseenError, compose, names_in
from resolver.fast.names import Names, names_of
from resolver.fast.words import Bytes
from resolver.resolve import BESIDE_CNAME, Resolver, Sections, resolve
from resolver.route import Decision, Steered
from resolver.wire import LABEL_BYTES_MAX, Key, Labels
from resolver.zone import AAAA, ANY, CNAME, DNAME, DS, RRSIG, SOA, A, Node, Outcome, Zones

NODES_MAX = 50_000
"""Names with answers worked out ahead; the slow path answers for those beyond."""
OTHER_TYPE = 0xFFFF_FFFF
"""Entry of a node for all types that have none of their own."""
UNKNOWN = 0
"""The answer that is the slow path's."""
_PROBE = b"\0"
"""A label of one octet that no zone uses: stands for any name below a node."""
PROBE_OCTETS = len(_PROBE) + 1

DO_NODES_MAX = 4_000
"""Names with answers for queries with DO, where a zone is signed: there are many more of them."""

# Columns of `Book.node`.
EXACT_ENTRY, BELOW_ENTRY, EXACT_DO_ENTRY, BELOW_DO_ENTRY, CHILD_START, CHILD_COUNT = range(6)
DO_COLUMNS = EXACT_DO_ENTRY - EXACT_ENTRY
# Columns of `Book.entry`.
ENTRY_TYPE, ENTRY_VARIANT, ENTRY_SPELLINGS, ENTRY_GAPS = range(4)
# Columns of `Book.child`.
LABEL_START, LABEL_LENGTH = range(2)
UNKNOWN_ENTRY = 0
# Columns of `Book.answer`.
(
    BODY_START,
    BODY_LENGTH,
    FLAGS,
    COUNT_AN,
    COUNT_NS,
    COUNT_AR,
    MOVING_START,
    MOVING_COUNT,
    CUT_START,
    CUT_COUNT,
    STEERED_OWNER,
    SERVICE,
    FAMILY,
    NONE_ANSWER,
    SIGNED,
) = range(15)
ANSWER_WORDS = 16
"""One cache line."""
# Columns of `Book.cut`.
CUT_END, CUT_AN, CUT_NS, CUT_AR = range(4)

Table32 = NDArray[np.uint32]


class Book(NamedTuple):
    """The answers as arrays."""

    names: Names
    node: Table32
    """[nodes, 6] first entry for the name itself and for names below, the same for queries with
    DO, and where the names right below stand in `child`."""
    entry: Table32
    """[entries, 4] type, first variant, spellings, gaps; a node's last entry is OTHER_TYPE."""
    variant: Table32
    """Answers by the number of trailing labels in lower case, at most `spellings`; where `gaps`
    is not 0, so many times, by where between the children of the node the name falls."""
    child: Table32
    """[children, 2] labels right below a node, in order: start in `label` and length."""
    label: Bytes
    answer: Table32
    """[answers, 16]"""
    body: Bytes
    moving: Table32
    cut: Table32


@dataclass(slots=True)
class _Pages:
    """The arrays being written; equal drafts are kept once."""

    node: list[list[int]] = field(default_factory=list)
    entry: list[tuple[int, int, int, int]] = field(default_factory=lambda: [(OTHER_TYPE, 0, 0, 0)])
    """The first is UNKNOWN_ENTRY."""
    variant: list[int] = field(default_factory=lambda: [UNKNOWN])
    child: list[tuple[int, int]] = field(default_factory=list)
    label: bytearray = field(default_factory=bytearray)
    answer: list[list[int]] = field(default_factory=lambda: [[0] * ANSWER_WORDS])
    body: bytearray = field(default_factory=bytearray)
    moving: list[int] = field(default_factory=list)
    cut: list[tuple[int, int, int, int]] = field(default_factory=list)
    known: dict[object, int] = field(default_factory=dict)
    bodies: dict[bytes, int] = field(default_factory=dict)

    def body_at(self, body: bytes) -> int:
        """Where equal bytes stand."""
        if body not in self.bodies:
            self.bodies[body] = len(self.body)
            self.body += body
        return self.bodies[body]

    def number(self, draft: Draft, service: int, ipv6: bool, none: int, signed: bool) -> int:
        """The answer's number."""
        key = (draft, service, ipv6, none, signed)
        if key not in self.known:
            self.known[key] = len(self.answer)
            line = [self.body_at(draft.body), len(draft.body), draft.flags, *draft.counts]
            line += [len(self.moving), len(draft.moving), len(self.cut), len(draft.cuts)]
            line += [draft.steered_owner, service, int(ipv6), none, int(signed)]
            self.answer.append(line + [0] * (ANSWER_WORDS - len(line)))
            self.moving += draft.moving
            self.cut += [(cut.end, *cut.counts) for cut in draft.cuts]
        return self.known[key]


class _Oracle:
    """Asks the slow path, and notes what it asked of the route."""

    def __init__(self, zones: Zones, minimal_any: bool) -> None:
        self._zones = zones
        self._minimal_any = minimal_any

    def ask(
        self, name: Labels, qtype: int, with_pop: bool, dnssec: bool
    ) -> tuple[Sections, list[bool]]:
        """Sections, and the family of every choice of a POP on the way."""
        asked: list[bool] = []

        def steer(_: Steered, ipv6: bool) -> Decision:
            asked.append(ipv6)
            if not with_pop:
                return Decision(None, (), 0, -1, False, ())
            return Decision("", (bytes(16 if ipv6 else 4),), 0, -1, False, ())

        resolver = Resolver(self._zones, steer, self._minimal_any, dnssec)
        return resolve(name, qtype, resolver), asked


class _Writer:
    """Writes the pages, node by node."""

    def __init__(self, zones: Zones, minimal_any: bool, services: Mapping[str, int]) -> None:
        self.pages = _Pages()
        self._zones = zones
        self._oracle = _Oracle(zones, minimal_any)
        self._services = services
        self._all_types = sorted(
            {t for zone in zones.by_origin.values() for n in zone.nodes.values() for t in n.rrsets}
            | {A, AAAA, ANY, CNAME, DS}
            | BESIDE_CNAME
        )
        self._other = next(t for t in range(65_280, 65_535) if t not in self._all_types)

    def write(self, key: Key | None, children: Sequence[bytes], dnssec: bool) -> None:
        """One node; None is the outside. `dnssec` is whether DO is foreseen too."""
        if key is None:
            outside = self._entries((_PROBE, b"\0"), [ANY], 0)
            self.pages.node.append([outside, outside, outside, outside, 0, 0])
            return
        exact = self._entries(key, self._types(key), len(key))
        below = self._entries((_PROBE, *key), self._types_below(key), len(key))
        line = [exact, below, exact, below, len(self.pages.child), len(children)]
        if self._is_signed(key):
            line[EXACT_DO_ENTRY : BELOW_DO_ENTRY + 1] = [UNKNOWN_ENTRY, UNKNOWN_ENTRY]
            if dnssec:
                line[EXACT_DO_ENTRY] = self._entries(key, self._types(key), len(key), dnssec=True)
                line[BELOW_DO_ENTRY] = self._gap_entries(key, children)
        self.pages.node.append(line)
        for label in children:
            self.pages.child.append((len(self.pages.label), len(label)))
            self.pages.label += label

    def _is_signed(self, key: Key) -> bool:
        """Whether DO changes an answer at or below this name."""
        zones = (self._zones.enclosing((_PROBE, *key), A), self._zones.enclosing(key, DS))
        return any(zone is not None and zone.signing is not None for zone in zones)

    def _nodes(self, key: Key) -> Iterator[Node]:
        """A name's nodes: parent and child zone may both have it."""
        for zone in self._zones.by_origin.values():
            if key in zone.nodes:
                yield zone.nodes[key]

    def _types(self, key: Key) -> list[int]:
        types = {ANY, DS, SOA, RRSIG}  # answered in their own way even where there is nothing
        nodes = list(self._nodes(key))
        if not nodes:
            return self._all_types  # a carried name: a wildcard or a DNAME may stand for it
        for node in nodes:
            types |= set(node.rrsets)
            if CNAME in node.rrsets:
                return self._all_types
            if node.service is not None:
                types |= {A, AAAA}
        return sorted(types)

    def _types_below(self, key: Key) -> list[int]:
        zone = self._zones.enclosing((_PROBE, *key), A)
        outcome = zone.find((_PROBE, *key), self._other).outcome if zone else None
        if outcome is Outcome.DELEGATED:
            return []  # whatever is asked for
        if outcome is Outcome.NXDOMAIN:
            return [SOA]
        wild = (b"*", *key)
        nodes = [*self._nodes(key), *self._nodes(wild)]
        if any({DNAME, CNAME} & set(node.rrsets) for node in nodes):
            return self._all_types
        return self._types(wild)

    def _entries(self, name: Key, types: list[int], spellings: int, *, dnssec: bool = False) -> int:
        first = len(self.pages.entry)
        other = self._variants(name, self._other, spellings, dnssec)
        for qtype in types:
            if self._answer(name, qtype, dnssec, _PROBE) != other[-1]:
                self._enter(qtype, [self._variants(name, qtype, spellings, dnssec)], 0)
        self._enter(OTHER_TYPE, [other], 0)
        return first

    def _gap_entries(self, key: Key, children: Sequence[bytes]) -> int:
        """Entries for names below a node of a signed zone.

        The NSEC that covers a name depends on the two children of the node between which it
        falls, and on nothing else: below a name that is not there, there is nothing.
        """
        if len(children) > DO_NODES_MAX:
            return UNKNOWN_ENTRY
        types = self._types_below(key)
        probes = [_PROBE, *(label + b"\0" for label in children)]
        if not types:  # a delegation: one answer for all names
            probes = [_PROBE]
        first = len(self.pages.entry)
        if types == [SOA]:
            # NXDOMAIN differs for SOA in a TTL; it is rarely asked for where there is nothing.
            self._enter(SOA, [[UNKNOWN]], 0)
            types = []
        for qtype in (*types, self._other):
            lines = [self._gap_variants(key, qtype, probe, children) for probe in probes]
            self._enter(OTHER_TYPE if qtype == self._other else qtype, lines, len(lines))
        return first

    def _gap_variants(
        self, key: Key, qtype: int, probe: bytes, children: Sequence[bytes]
    ) -> list[int]:
        if len(probe) > LABEL_BYTES_MAX or probe in children:
            return [UNKNOWN]
        return self._variants((_PROBE, *key), qtype, len(key), True, probe)

    def _enter(self, qtype: int, lines: list[list[int]], gaps: int) -> None:
        """One entry; lines of one variant are stretched where others have more."""
        width = max(map(len, lines))
        self.pages.entry.append((qtype, len(self.pages.variant), width - 1, gaps))
        for line in lines:
            self.pages.variant += line if len(line) == width else line * width

    def _variants(
        self, name: Key, qtype: int, spellings: int, dnssec: bool, probe: bytes = _PROBE
    ) -> list[int]:
        """Answers by the number of trailing lower-case labels, 0 to `spellings`."""
        sections, families = self._oracle.ask(_with_probe(name, probe), qtype, True, dnssec)
        # What answers nothing says the same however the question is spelt: ask once.
        told = None if families or sections.answer else sections
        plain = self._answer(name, qtype, dnssec, probe, told)
        if plain == UNKNOWN:
            return [plain]
        loud = self._answer(_upper(name), qtype, dnssec, probe, told)
        if loud == plain:
            return [plain]
        if any(label != label.lower() for found in names_in(sections) for label in found):
            # Which of their suffixes a query repeats is not told by its lower-case labels alone.
            return [UNKNOWN] * spellings + [plain]
        spelt = [_spelt(name, n) for n in range(1, spellings)]
        some = [self._answer(one, qtype, dnssec, probe, told) for one in spelt]
        return [*([loud] if spellings else []), *some, plain]

    def _answer(
        self,
        name: Labels,
        qtype: int,
        dnssec: bool,
        probe: bytes,
        told: Sections | None = None,
    ) -> int:
        """The number of an answer; `told` is what the slow path says, where it is known."""
        if told is not None:
            draft = compose(name, told, steered=False, dnssec=dnssec)
            return self.pages.number(draft, 0, False, UNKNOWN, False)
        asked = _with_probe(name, probe)
        sections, families = self._oracle.ask(asked, qtype, True, dnssec)
        first = sections.answer[0] if sections.answer else None
        if first is not None and first.rtype == DNAME and len(first.owner) < len(name):
            return UNKNOWN  # the answer writes a name that is made from the question's
        _rename(sections, asked, name)
        if not families:
            draft = compose(name, sections, steered=False, dnssec=dnssec)
            return self.pages.number(draft, 0, False, UNKNOWN, False)
        empty, again = self._oracle.ask(asked, qtype, False, dnssec)
        _rename(empty, asked, name)
        service = sections.service
        if len(families) != 1 or again != families or service is None:
            return UNKNOWN
        try:
            draft = compose(name, sections, steered=True, dnssec=dnssec)
        except UnforeseenError:
            return UNKNOWN
        none = compose(name, empty, steered=False, dnssec=dnssec)
        number = self.pages.number(none, 0, False, UNKNOWN, False)
        return self.pages.number(draft, self._services[service.name], families[0], number, dnssec)


def _with_probe(name: Labels, probe: bytes) -> Labels:
    """The name with another label in place of the probe that it begins with."""
    return (probe, *name[1:]) if name[:1] == (_PROBE,) else name


def _rename(sections: Sections, asked: Labels, name: Labels) -> None:
    """What a wildcard answered under one name, under another."""
    if asked != name:
        sections.answer = [
            replace(rrset, owner=name) if rrset.owner == asked else rrset
            for rrset in sections.answer
        ]


def _upper(name: Key) -> Labels:
    return tuple(label.upper() for label in name)


def _spelt(name: Key, lower_labels: int) -> Labels:
    """The name with just so many trailing labels in lower case."""
    cut = len(name) - lower_labels
    return (*_upper(name[:cut]), *name[cut:])


def _keys(zones: Zones) -> list[Key]:
    """All nodes, and the names that answers carry without there being a node of that name.

    Such a name, or a suffix of it, would become a pointer into a question that repeats it.
    """
    nodes = {key for zone in zones.by_origin.values() for key in zone.nodes}
    carried: set[Key] = set()
    for zone in zones.by_origin.values():
        for node in zone.nodes.values():
            for rrset in node.rrsets.values():
                for rdata in rrset.rdatas:
                    carried |= {
                        tuple(label.lower() for label in part[depth:])
                        for part in rdata.parts
                        if isinstance(part, tuple)
                        for depth in range(len(part))
                        if zone.contains(tuple(label.lower() for label in part[depth:]))
                    }
    return sorted(nodes | carried, key=lambda key: (len(key), key))


def _children(keys: Sequence[Key]) -> dict[Key, list[bytes]]:
    """The labels right below each name, in order (RFC 4034 §6.1)."""
    found: dict[Key, list[bytes]] = {}
    for key in keys:
        if key:
            found.setdefault(key[1:], []).append(key[0])
    return {key: sorted(labels) for key, labels in found.items()}


def build(zones: Zones, minimal_any: bool, services: Mapping[str, int]) -> Book:
    """The book of some zones; `services` numbers the steered names.

    Shorter names come first, so that beyond NODES_MAX it is single hosts that are left out.
    """
    writer = _Writer(zones, minimal_any, services)
    keys = _keys(zones)
    children = _children(keys)
    writer.write(None, (), False)
    for at, key in enumerate(keys[:NODES_MAX]):
        writer.write(key, children.get(key, ()), at < DO_NODES_MAX)
    for _ in keys[NODES_MAX:]:
        writer.pages.node.append([UNKNOWN_ENTRY] * 4 + [0, 0])
    pages = writer.pages
    return Book(
        names_of([_wire(key) for key in keys]),
        _table(pages.node, 6),
        _table(pages.entry, 4),
        np.array(pages.variant, np.uint32),
        _table(pages.child, 2),
        np.frombuffer(bytes(pages.label) + bytes(8), np.uint8).copy(),
        _table(pages.answer, ANSWER_WORDS),
        np.frombuffer(bytes(pages.body) + bytes(8), np.uint8).copy(),
        np.array([*pages.moving, 0], np.uint32),
        _table(pages.cut, 4),
    )


def _wire(key: Key) -> bytes:
    wire = b"".join(bytes((len(label),)) + label for label in key) + b"\0"
    assert len(wire) < NAME_BYTES
    return wire


def _table(lines: Sequence[Sequence[int]], columns: int) -> Table32:
    return np.array(lines or [[0] * columns], np.uint32).reshape(-1, columns)
