"""What a cycle takes for the present: where the DNS nodes send the users now."""

import numpy as np

from aggregator.compare import Answers
from aggregator.failover import fallen_over


def test_shares_of_dead_pops_are_with_the_next_rank_and_round_to_the_top() -> None:
    pop = np.array([[0, 1, 2, -1], [1, 0, 3, -1], [2, 3, 0, 1], [1, -1, -1, -1]])
    share = np.array([[0.5, 0.5, 0, 0], [1.0, 0, 0, 0], [0.25, 0.75, 0, 0], [1.0, 0, 0, 0]])
    usable = np.array([True, False, True, False])

    now = fallen_over(Answers(pop, share), usable)

    assert now.share.tolist() == [[0.5, 0, 0.5, 0], [0, 1, 0, 0], [0.25, 0, 0.75, 0], [0, 0, 0, 0]]
    assert share[0].tolist() == [0.5, 0.5, 0, 0]


def test_with_all_pops_usable_nothing_changes() -> None:
    said = Answers(np.array([[0, 1]]), np.array([[0.3, 0.7]]))

    assert fallen_over(said, np.ones(2, bool)) is said
