from dataclasses import fields

import numpy as np
import pytest

from popsteer import evidence as evidences
from popsteer.errors import TableError
from popsteer.evidence import Evidence, Reason
from popsteer.names import Prefix, prefix_arrays

PREFIXES = ["10.0.0.0/8", "10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32", "2001:db8:1::/48"]


def _evidence() -> Evidence:
    net, plen = prefix_arrays([Prefix.parse(text) for text in PREFIXES])
    count = len(PREFIXES)
    columns = {
        name: np.linspace(1, 2, count, dtype=np.float32)
        for name in ("demand_bps", "rtt_us", "spread_us", "samples", "age_s", "loss")
    }
    columns["rtt_us"][1] = np.nan
    # A row's demand is its prefix's, a price is its POP's.
    columns["demand_bps"][1] = columns["demand_bps"][0]
    pop = np.array([0, 1, 0, 1, 0], np.uint16)
    return Evidence(
        generation=4,
        created_ms=9,
        pops=("fra1", "ams1"),
        net=net,
        plen=plen,
        pop=pop,
        price_us=np.array([0.0, 1_500.0], np.float32)[pop],
        reason=np.array([Reason.CHOSEN, Reason.UNMEASURED, 0, 0, 0], np.uint8),
        source=np.array([0, 1, 2, 3, 0], np.uint8),
        **columns,
    )


def test_bytes_give_the_evidence_back_to_three_digits() -> None:
    given = _evidence()
    back = evidences.decode(evidences.encode(given))
    assert (back.generation, back.created_ms, back.pops) == (4, 9, ("fra1", "ams1"))
    for field in fields(Evidence)[3:]:
        left, right = getattr(back, field.name), getattr(given, field.name)
        np.testing.assert_allclose(left, right, rtol=6e-4)
        assert left.dtype == right.dtype


@pytest.mark.parametrize(
    ("prefix", "rows"),
    [
        ("10.2.0.0/24", [0, 1]),
        ("10.1.2.0/24", [2]),
        ("10.1.2.3", [2]),
        ("10.0.0.0/8", [0, 1]),
        ("11.0.0.0/8", []),
        ("2001:db8:1:2::/64", [4]),
        ("2001:db8:2::/48", [3]),
        ("2001:db9::/48", []),
        # The same top 32 bits as 2001:db8::/32, but another family.
        ("32.1.13.184", []),
    ],
)
def test_rows_are_those_of_the_longest_prefix(prefix: str, rows: list[int]) -> None:
    assert _evidence().rows_of(Prefix.parse(prefix)).tolist() == rows


def test_every_cut_is_refused_or_whole() -> None:
    data = evidences.encode(_evidence())
    refused = 0
    for cut in range(len(data)):
        try:
            back = evidences.decode(data[:cut])
        except TableError:
            refused += 1
        else:
            assert len(back.net) == len(PREFIXES)
    assert refused


@pytest.mark.parametrize("data", [b"", b"{}", bytes(100)])
def test_what_is_no_evidence_is_refused(data: bytes) -> None:
    with pytest.raises(TableError, match="not evidence"):
        evidences.decode(data)


def test_the_bytes_of_many_pairs_are_few() -> None:
    rng = np.random.default_rng(3)
    prefixes, each = 5_000, 8
    pairs = prefixes * each
    rtt_us, spread_us, samples, age_s, loss = (
        rng.lognormal(9, 1, pairs).astype(np.float32) for _ in range(5)
    )
    many = Evidence(
        4,
        9,
        tuple(f"p{i}" for i in range(200)),
        np.repeat(np.arange(prefixes, dtype=np.uint64) << np.uint64(40), each),
        np.full(pairs, 24, np.uint8),
        np.repeat(rng.pareto(1.3, prefixes).astype(np.float32), each),
        rng.integers(0, 200, pairs).astype(np.uint16),
        rtt_us,
        spread_us,
        samples,
        age_s,
        loss,
        np.zeros(pairs, np.float32),
        rng.integers(0, 9, pairs).astype(np.uint8),
        np.zeros(pairs, np.uint8),
    )

    assert len(evidences.encode(many)) < 14 * pairs


def test_keys_sort_by_generation() -> None:
    assert evidences.key(9) < evidences.key(10) < evidences.key(100_000)
