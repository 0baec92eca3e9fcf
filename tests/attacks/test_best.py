"""The best of what was offered, sample by sample."""

import pytest
import torch

from freqbench.attacks.core.best import Best


@pytest.mark.parametrize(("by_success", "kept"), [(False, [1, 2, 1]), (True, [1, 2, 3])])
def test_of_equal_values_the_first_is_kept_or_where_asked_for_the_last(by_success: bool, kept: list[int]) -> None:
    best = Best(by_success=by_success)
    for number, values in ((1, [5.0, 1.0, 2.0]), (2, [4.0, 3.0, 0.0]), (3, [1.0, 2.0, 2.0])):
        best.offer(torch.tensor(values), torch.full((3,), number))
    assert best.values.tolist() == [5, 3, 2]
    assert best.kept[0].tolist() == kept
