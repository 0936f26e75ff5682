"""The candidates of a prefix: by cost, with the loss that counts."""

import numpy as np
import pytest

from aggregator.candidates import LOSSES_DOUBTED, RETRANSMIT_US, Candidates, candidates
from aggregator.estimate import Estimates
from aggregator.inference import Known
from aggregator.solve import NOWHERE
from popsteer.evidence import Source

POPS = 4


def made(
    pairs: list[tuple[int, int, float, float, float]], serves: list[bool] | None = None
) -> Candidates:
    """Of (row, POP, RTT, samples, loss)."""
    row, pop, rtt, samples, loss = (np.array(column) for column in zip(*pairs, strict=True))
    n = len(row)
    estimates = Estimates(
        row * POPS + pop, rtt, np.full(n, 500.0), samples.astype(float), np.zeros(n), loss
    )
    told = Known(estimates, np.full(n, Source.MEASURED, np.uint8))
    return candidates(told, POPS, None if serves is None else np.array(serves))


def test_the_cheapest_comes_first_and_of_equal_ones_the_first() -> None:
    found = made([(0, 0, 30e3, 9, 0), (0, 1, 10e3, 9, 0), (0, 2, 30e3, 9, 0), (3, 3, 5e3, 9, 0)])

    assert found.row.tolist() == [0, 3]
    assert found.pop.tolist() == [[1, 0, 2], [3, NOWHERE, NOWHERE]]
    assert np.isinf(found.cost_us[1, 1:]).all()


def test_one_probe_lost_among_five_proves_nothing() -> None:
    found = made([(0, 0, 10e3, 5, 0.2), (0, 1, 12e3, 5, 0)])

    assert found.pop[0].tolist() == [0, 1]
    assert found.cost_us[0] == pytest.approx([10e3, 12e3])


def test_loss_that_counts_costs_what_it_delays() -> None:
    found = made([(0, 0, 10e3, 100, 0.1), (0, 1, 60e3, 100, 0)])

    lost = RETRANSMIT_US * (10 - LOSSES_DOUBTED) / (100 + LOSSES_DOUBTED)
    assert found.pop[0].tolist() == [1, 0]
    assert found.cost_us[0] == pytest.approx([60e3, 10e3 + lost])
    assert found.rtt_us[0] == pytest.approx([60e3, 10e3])


def test_who_may_not_serve_is_no_candidate_and_the_row_stays() -> None:
    found = made(
        [(0, 0, 10e3, 9, 0), (0, 1, 20e3, 9, 0), (2, 0, 10e3, 9, 0)], [False, True, True, True]
    )

    assert found.row.tolist() == [0, 2]
    assert found.pop[:, 0].tolist() == [1, NOWHERE]
