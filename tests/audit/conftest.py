"""What the audit's tests share."""

import os

import pytest


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test pulls the plug, and waiting for the disk would be much of the time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
