"""What DNSSEC costs: the same queries with and without DO, to one server of a signed zone.

Both kinds come in turns to the same process, so that other work on the machine hits both alike.
"""

import statistics
import time
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.dns_load import Queries, drive
from benchmarks.dns_peers import PEERS, await_compiled, cpu_ns, free_port, running
from benchmarks.dns_world import WIRE_NAME, World, queries
from popsteer.config_file import load
from resolver.dnssec import origin_text
from resolver.sign import lifetime, sign_zones
from resolver.zonefile import checked_fleet, unsigned_zones
from resolver.zonekeys import KeyFolder, ensure

TURNS, TURN_S, WINDOW = 6, 0.5, 128
_DO_AT = 12 + len(WIRE_NAME) + 4 + 7
"""Behind header, question and the OPT record's root, type, size, extended RCODE and version."""
_DO = 0x80


def rate_kept(of: World, folder: Path) -> float:
    """CPU time of an answer without DO over one with, each the median of some turns."""
    port, plain = free_port(), queries(of)
    command = PEERS[0].write(of, folder, port)
    _sign(folder)
    cost: dict[bool, list[float]] = {False: [], True: []}
    with running(command, port, folder) as (pid, _):
        await_compiled(folder / "log")
        asked = {False: plain, True: with_do(plain)}
        for turn in range(2 * TURNS + 2):
            dnssec = bool(turn % 2)
            before_ns = cpu_ns(pid)
            run = drive(("127.0.0.1", port), asked[dnssec], TURN_S, WINDOW)
            if turn < 2:  # the first of each kind warms up
                continue
            if run.wrong or not run.good:
                raise RuntimeError(f"{run.wrong} wrong answers of {run.sent} with DO {dnssec}")
            cost[dnssec].append((cpu_ns(pid) - before_ns) / run.good)
    return statistics.median(cost[False]) / statistics.median(cost[True])


def with_do(asked: Queries) -> Queries:
    """The same queries with the DNSSEC OK bit (RFC 3225)."""
    octets = asked.octets.copy()
    octets[:, _DO_AT] |= np.uint8(_DO)
    return Queries(octets, asked.length, asked.right)


def _sign(folder: Path) -> None:
    """As `popsteer sign` does."""
    path = folder / "popsteer.toml"
    path.write_text(path.read_text().replace("[dns]\n", '[dns]\ndnssec = "signed"\n'))
    config, now_s = load(path), int(time.time())
    zones, keys = unsigned_zones(config), KeyFolder(folder / "keys")
    names = map(origin_text, zones.by_origin)
    of = {name: ensure(keys, name, "ed25519", False, now_s) for name in names}
    made = sign_zones(zones, checked_fleet(config), of, lifetime(now_s, 14))
    (folder / "signed").write_bytes(msgspec.msgpack.encode(made))
