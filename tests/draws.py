"""Random numbers of tests."""

import torch


def seeded(seed: int) -> torch.Generator:
    """A generator of a test's own."""
    return torch.Generator().manual_seed(seed)
