"""Shares a cache of downloads."""

from pathlib import Path

import pytest

from freqbench.core.files import downloads


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and no memory of what was looked up."""
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(downloads, "FRESH_S", 0.0)
    return tmp_path / "cache"
