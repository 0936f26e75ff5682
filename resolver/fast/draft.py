"""One answer worked out ahead: the bytes behind the question, and what to know to replay them.

A draft is composed from the sections that the slow path gives, by the slow path's own buffer, so
compression and order are the same. It holds for one spelling of the question's name; below a node
it holds for names of any length: pointers move along with the length of the name.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dnslib.label import DNSLabel

from resolver.answer import IN, NO_LIMIT, write_rrset
from resolver.resolve import Sections
from resolver.wire import AA, HEADER_BYTES, Labels, WireBuffer
from resolver.zone import RRset

QUESTION_POINTER = 0xC000 | HEADER_BYTES


class UnforeseenError(Exception):
    """An answer of a form that the compiled path does not replay; it stays with the slow path."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The message so far, where it may end when the rest does not fit."""

    end: int
    """Octets behind the question."""
    counts: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Draft:
    """One answer; for a steered name all but the addresses."""

    body: bytes
    flags: int
    """AA and RCODE."""
    counts: tuple[int, int, int]
    """Answer, authority, additional without OPT."""
    moving: tuple[int, ...]
    """Offsets in `body` of pointers that move with the length of the question's name."""
    cuts: tuple[Cut, ...]
    """After the question and after each RRset whose loss truncates; in order."""
    steered_owner: int = 0
    """Compression pointer of the addresses' owner; 0 where the answer is static."""


class _Composer(WireBuffer):
    """The slow path's buffer, which remembers where it put pointers."""

    def __init__(self, question: Labels, dnssec: bool) -> None:
        super().__init__()
        self._dnssec = dnssec
        self.pointers: list[int] = []
        self.append(bytes(HEADER_BYTES))
        super().encode_name(DNSLabel(question))
        self.append(bytes(4))
        self.body_at = self.offset

    def encode_name(self, name: DNSLabel) -> None:
        start = self.offset
        super().encode_name(name)
        whole = sum(len(label) + 1 for label in name.label) + 1
        if self.offset - start < whole:
            self.pointers.append(self.offset - 2)

    def write(self, rrset: RRset) -> int:
        """As `resolver.answer` writes it, without a limit; how many records."""
        return write_rrset(self, rrset, IN, NO_LIMIT, self._dnssec)

    def pointer_at(self, at: int) -> int:
        return int.from_bytes(self.data[at : at + 2], "big")


def compose(question: Labels, sections: Sections, steered: bool, dnssec: bool = False) -> Draft:
    """The draft of an answer to a question in one spelling.

    Args:
        question: The name as it stands in the query.
        sections: What the slow path answers.
        steered: The last RRset of the answer is that of a steered name.
        dnssec: With signatures.

    Raises:
        UnforeseenError: the steered RRset is not last, or its owner is no pointer.
    """
    made = _Composer(question, dnssec)
    counts = [0, 0, 0]
    cuts = [Cut(0, (0, 0, 0))]
    answer = sections.answer[:-1] if steered else sections.answer
    for section, rrsets in enumerate((answer, sections.authority, sections.glue)):
        for rrset in rrsets:
            counts[section] += made.write(rrset)
            cuts.append(Cut(made.offset - made.body_at, (counts[0], counts[1], counts[2])))
    for rrset in sections.additional:
        counts[2] += made.write(rrset)
    body = bytes(made.data[made.body_at :])
    owner = _steered_owner(made, sections) if steered else 0
    return Draft(
        body,
        (AA if sections.authoritative else 0) | sections.rcode,
        (counts[0], counts[1], counts[2]),
        tuple(p - made.body_at for p in made.pointers if _moves(made.pointer_at(p))),
        tuple(cuts),
        owner,
    )


def _moves(pointer: int) -> bool:
    """All but those to the whole name of the question, which starts where it always does."""
    return pointer != QUESTION_POINTER


def _steered_owner(made: _Composer, sections: Sections) -> int:
    if sections.authority or sections.glue or sections.additional:
        raise UnforeseenError
    start = made.offset
    made.encode_name(DNSLabel(sections.answer[-1].owner))
    if made.offset - start != 2 or start not in made.pointers:
        raise UnforeseenError
    return made.pointer_at(start)


def names_in(sections: Sections) -> list[Labels]:
    """Every name that an answer writes besides the question's."""
    rrsets: Sequence[RRset] = [
        *sections.answer,
        *sections.authority,
        *sections.glue,
        *sections.additional,
    ]
    owners = [rrset.owner for rrset in rrsets]
    parts = [p for rrset in rrsets for rdata in rrset.rdatas for p in rdata.parts]
    return owners + [part for part in parts if isinstance(part, tuple)]
