"""Routes: which link of a POP its traffic to a prefix leaves by, `routes/<pop>.csv` in the bucket.

A CSV with the header `to,link`: a prefix, or `AS` and the number of an autonomous system, and the
id of one of the POP's links. The longest prefix that covers a client wins, then its network; what
neither covers has no known link. Whoever knows the POP's routing table writes the object (one
per POP, written whole); the planner reads it again whenever it changes.
"""

import difflib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from popsteer import csv_file
from popsteer.errors import ConfigError
from popsteer.intervals import Ranges, flatten
from popsteer.names import IPV6_BIT, Net, Plen, Prefix, prefix_arrays

KEY_PREFIX = "routes/"
HEADER = ("to", "link")
ROWS_MAX = 4_000_000
NO_LINK = -1

Ints = NDArray[np.int64]


def key(pop: str) -> str:
    """The object with the routes of a POP."""
    return f"{KEY_PREFIX}{pop}.csv"


@dataclass(frozen=True, slots=True)
class Routes:
    """Of one POP. Links are by their number in the configuration."""

    ipv4: Ranges
    ipv6: Ranges
    link: Ints
    """[prefixes], what the owners of ranges lead through."""
    network: Ints
    """[networks], sorted numbers of autonomous systems."""
    network_link: Ints

    def through(self, net: Net, plen: Plen, network: Ints | None) -> Ints:
        """[n], the link to each prefix; NO_LINK where none is known."""
        found = np.full(len(net), NO_LINK, np.int64)
        if network is not None and len(self.network):
            at = np.minimum(np.searchsorted(self.network, network), len(self.network) - 1)
            found = np.where(self.network[at] == network, self.network_link[at], NO_LINK)
        is_ipv6 = (plen & np.uint8(IPV6_BIT)) != 0
        for ranges, family in ((self.ipv4, ~is_ipv6), (self.ipv6, is_ipv6)):
            if not len(ranges.first):
                continue
            row = np.flatnonzero(family)
            at = np.searchsorted(ranges.first, net[row], side="right") - 1
            covered = (at >= 0) & (net[row] <= ranges.last[at])
            found[row[covered]] = self.link[ranges.owner[at[covered]]]
        return found


def decode(body: bytes, pop: str, links: Sequence[str]) -> Routes:
    """The routes in an object; `links` are the ids of the POP's links.

    Raises:
        ConfigError: names the object, the line, the value and what was expected.
    """
    prefixes: list[Prefix] = []
    link: list[int] = []
    networks: dict[int, int] = {}

    def take(row: list[str]) -> None:
        to, number = row[0], _link(row[1], pop, links)
        if to.startswith("AS"):
            networks[_network(to)] = number
            return
        prefixes.append(Prefix.parse(to))
        link.append(number)
        if len(link) > ROWS_MAX:
            raise ConfigError(f"more than {ROWS_MAX} prefixes")

    lines = io.TextIOWrapper(io.BytesIO(body), "utf-8", newline="")
    csv_file.rows_of(lines, key(pop), HEADER, take)
    net, plen = prefix_arrays(prefixes)
    known = np.array(sorted(networks), np.int64)
    return Routes(
        _family(net, plen, ipv6=False),
        _family(net, plen, ipv6=True),
        np.array(link, np.int64),
        known,
        np.array([networks[number] for number in known.tolist()], np.int64),
    )


def _link(link: str, pop: str, links: Sequence[str]) -> int:
    """Its number."""
    if link not in links:
        near = difflib.get_close_matches(link, links, 1, 0.0)
        hint = f"did you mean {near[0]}?" if near else "it has none"
        raise ConfigError(f"link {link!r} is no [[pop.link]] of {pop}; {hint}")
    return links.index(link)


def _network(text: str) -> int:
    number = text.removeprefix("AS")
    if not number.isdigit() or int(number) >= 2**32:
        raise ConfigError(f"to {text!r}: write a prefix, or AS and a number as in AS64500")
    return int(number)


def _family(net: Net, plen: Plen, *, ipv6: bool) -> Ranges:
    """Ranges of one family, owned by rows of the whole."""
    rows = np.flatnonzero(((plen & np.uint8(IPV6_BIT)) != 0) == ipv6)
    ranges = flatten(net[rows], plen[rows])
    return Ranges(ranges.first, ranges.last, rows[ranges.owner])
