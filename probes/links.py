"""Utilisation of this machine's links, from the kernel's 64-bit counters.

`Links.read` is the rim (rtnetlink through pyroute2, `/proc/net/dev` where that is refused),
`rates` is pure: two readings in, rates out. A counter that went back (reset, wrapped, another
interface under the same name) gives no rate for that period: unknown, never zero.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

PROC_NET_DEV = Path("/proc/net/dev")


@dataclass(frozen=True, slots=True)
class Counters:
    """One interface at one moment."""

    rx_bytes: int
    tx_bytes: int
    dropped: int
    """Both directions."""


@dataclass(frozen=True, slots=True)
class Rates:
    """One interface between two moments."""

    rx_bps: float
    tx_bps: float
    drops_per_s: float


def rates(before: Counters, after: Counters, elapsed_s: float) -> Rates | None:
    """What passed between two readings; None when a counter went back or no time passed."""
    rx, tx = after.rx_bytes - before.rx_bytes, after.tx_bytes - before.tx_bytes
    dropped = after.dropped - before.dropped
    if min(rx, tx, dropped) < 0 or elapsed_s <= 0:
        return None
    return Rates(8 * rx / elapsed_s, 8 * tx / elapsed_s, dropped / elapsed_s)


class Links:
    """Reads the counters; blocks, so call it from one thread of its own."""

    def __init__(self) -> None:
        self._netlink: IPRoute | None = None

    def read(self) -> dict[str, Counters]:
        """The counters of every interface by its name; empty where the kernel tells none."""
        try:
            self._netlink = self._netlink or IPRoute()
            return dict(_counters(message) for message in self._netlink.get_links())
        except (OSError, NetlinkError):
            self.close()
            return _from_proc()

    def close(self) -> None:
        """Close the netlink socket."""
        if self._netlink is not None:
            self._netlink.close()
        self._netlink = None


def _counters(message: Any) -> tuple[str, Counters]:
    stats = message.get_attr("IFLA_STATS64") or message.get_attr("IFLA_STATS")
    dropped = stats["rx_dropped"] + stats["tx_dropped"]
    return message.get_attr("IFLA_IFNAME"), Counters(stats["rx_bytes"], stats["tx_bytes"], dropped)


def _from_proc() -> dict[str, Counters]:
    try:
        return parse_proc_net_dev(PROC_NET_DEV.read_text())
    except OSError:
        return {}


def parse_proc_net_dev(text: str) -> dict[str, Counters]:
    """The same from the text of `/proc/net/dev` (proc(5)): 8 columns received, 8 sent."""
    found = {}
    for line in text.splitlines()[2:]:
        name, _, numbers = line.partition(":")
        column = [int(number) for number in numbers.split()]
        found[name.strip()] = Counters(column[0], column[8], column[3] + column[11])
    return found
