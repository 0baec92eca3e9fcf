"""By which figures weights are chosen."""

import numpy as np
import pytest

from freqbench.training.validation import choice, mean_foreground, under_attacks

NAN = np.nan


def test_mean_foreground_counts_cases_not_classes() -> None:
    scores = np.array([[0.9, 0.2, 0.4], [0.9, NAN, 0.7], [1.0, NAN, NAN]])
    assert mean_foreground(scores) == pytest.approx((0.3 + 0.7) / 2)
    assert mean_foreground(scores[2:]) == 0


def test_figures_of_several_attacks_by_hand() -> None:
    """Two foreground classes; the second case lacks one, the third has none.

    Means of the cases: 0.3 and 0.8 under the first attack, 0.5 and 0.4 under the second.
    """
    first = np.array([[0.9, 0.2, 0.4], [0.9, 0.8, NAN], [0.9, NAN, NAN]])
    second = np.array([[0.9, 0.6, 0.4], [0.9, 0.4, NAN], [0.9, NAN, NAN]])
    assert under_attacks([first, second]) == pytest.approx(((0.3 + 0.8 + 0.5 + 0.4) / 4, (0.3 + 0.4) / 2))
    assert under_attacks([first]) == pytest.approx((0.55, 0.55))
    assert under_attacks([first[2:]]) == (0, 0)
    assert np.isnan(under_attacks([])).all()


def test_each_way_to_choose() -> None:
    found = [choice(by, clean=0.8, attacked=0.6, worst=0.5) for by in ("clean", "attacked", "mean", "worst")]
    assert found == pytest.approx([0.8, 0.6, 0.7, 0.5])
