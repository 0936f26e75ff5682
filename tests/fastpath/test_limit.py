"""Response rate limiting and the bounded demand table."""

import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from popsteer.names import Prefix
from resolver.cookies import make
from resolver.demand import ENTRIES_MAX
from resolver.fast.count import Counts, count_answer, counts, take
from resolver.fast.kernel import kernel
from resolver.fast.limit import HOLD, PASS, SLIP, Limits, limit, limits
from resolver.snapshot import Snapshot


@kernel
def judged(limits: Any, nets: Any, at_s: Any, verdicts: Any) -> Any:
    for i in range(nets.shape[0]):
        verdicts[i] = limit(limits, nets[i], np.uint64(0), np.uint64(0), at_s)


def verdicts(buckets: Limits, nets: list[int], at_s: float) -> list[int]:
    out = np.zeros(len(nets), np.int64)
    judged(buckets, np.array(nets, np.uint64), at_s, out)
    return out.tolist()


def test_a_network_over_its_rate_is_held_and_every_second_one_slips() -> None:
    buckets = limits(10.0)  # burst 20
    network = 0x0A000001 << 32
    first = verdicts(buckets, [network + (i << 32) for i in range(40)], 1.0)
    assert first[:20] == [PASS] * 20
    assert Counter(first[20:]) == {SLIP: 10, HOLD: 10}
    assert verdicts(buckets, [0x0B000001 << 32], 1.0) == [PASS]
    assert verdicts(buckets, [network] * 11, 2.0).count(PASS) == 10


def test_rate_zero_is_off() -> None:
    assert set(verdicts(limits(0.0), [1 << 32] * 1_000, 1.0)) == {PASS}


def test_listed_networks_are_exempt_and_their_neighbours_are_not() -> None:
    listed = [Prefix.parse("10.0.0.0/25"), Prefix.parse("2001:db8::/32")]
    inside, outside = 0x0A00007F << 32, 0x0A000080 << 32
    assert set(verdicts(limits(1.0, listed), [inside] * 50, 1.0)) == {PASS}
    assert HOLD in verdicts(limits(1.0, listed), [outside] * 50, 1.0)
    # The same number, but of the other family.
    assert HOLD in verdicts(limits(1.0, listed), [0x20010DB8 << 32] * 50, 1.0)


CLIENT = bytes([10, 1, 5, 200])
CLIENT_COOKIE = b"cookie!!"


def with_cookie(plain: bytes, cookie: bytes) -> bytes:
    option = struct.pack("!HH", 10, len(cookie)) + cookie
    opt = b"\0" + struct.pack("!HHIH", 41, 1232, 0, len(option)) + option
    return plain[:11] + b"\1" + plain[12:] + opt


def test_only_valid_cookies_are_exempt(
    snapshot: Snapshot, open_bench: Callable[..., Any], now_s: int
) -> None:
    plain = bytes.fromhex("000101000001000000000000") + b"\3www\3cdn\7example\0\0\1\0\1"
    secret = snapshot.options.secret
    assert secret is not None
    valid = CLIENT_COOKIE + make(CLIENT_COOKIE, CLIENT, secret, now_s)
    wrong = valid[:-1] + bytes([valid[-1] ^ 1])
    for cookie, exempt in ((valid, True), (wrong, False), (CLIENT_COOKIE, False)):
        bench = open_bench(snapshot, rrl_per_s=1.0)
        replies = bench.run([with_cookie(plain, cookie)] * 10, [CLIENT] * 10)
        whole = [one for one in replies if one.wire and not one.wire[2] & 2]
        assert len(whole) == (10 if exempt else 2), cookie


def test_a_truncated_reply_is_empty(snapshot: Snapshot, open_bench: Callable[..., Any]) -> None:
    bench = open_bench(snapshot, rrl_per_s=1.0)
    plain = bytes.fromhex("000101000001000000000000") + b"\3www\3cdn\7example\0\0\1\0\1"
    replies = bench.run([plain] * 10, [CLIENT] * 10)
    sent = [reply.wire for reply in replies if reply.wire]
    assert len(sent) == 2 + 4  # the burst, and every second of the other eight
    assert sum(wire[2] & 2 and wire[7] == 0 and len(wire) == len(plain) for wire in sent) == 4


@kernel
def flood(counts: Any, first: Any, many: Any) -> Any:
    for i in range(many):
        net = (np.uint64(first) + np.uint64(i)) << np.uint64(40)
        source, none = np.uint64(32), np.uint64(0)
        count_answer(counts, net, source, none, none, np.uint64(7), np.uint64(2))


def test_demand_is_coarser_when_the_table_is_full_and_no_volume_is_lost() -> None:
    table: Counts = counts()
    flood(table, 0, ENTRIES_MAX + 5_000)
    found = take(table)
    lengths = Counter(found.plen.tolist())
    assert lengths[24] == ENTRIES_MAX
    assert set(lengths) == {24, 12}
    assert int(found.queries.sum()) == ENTRIES_MAX + 5_000
    assert found.dropped == 0
    assert len(take(table).net) == 0
