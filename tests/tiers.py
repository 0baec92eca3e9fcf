"""Parameters of a test of which few run by default, and all with the integration tests."""

from collections.abc import Iterable
from typing import Any

import pytest


def quick(cases: Iterable[Any], *few: Any) -> list[Any]:
    """Returns the cases, those that are not among the few marked as integration tests.

    Args:
        cases: Parameters, of which each has to be tested; a tuple where a test takes several.
        few: Those among them that are tested by default; a wrong name raises.
    """
    cases = [*cases]
    assert all(case in cases for case in few), f"expected some of {cases}, got {few}"
    return [
        case if case in few else pytest.param(*each, marks=pytest.mark.integration)
        for case, each in zip(cases, [case if isinstance(case, tuple) else (case,) for case in cases], strict=True)
    ]
