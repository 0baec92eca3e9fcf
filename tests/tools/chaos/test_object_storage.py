"""An S3 server that refuses or cuts: large objects are whole, and a unit waits for what it needs."""

import io

import pytest
import tiny_job
from core.files.conftest import cache
from core.files.test_object_storage import OLD
from core.files.test_uris import content, here, there
from rich.console import Console
from s3_server import S3

from freqbench.core.errors import StorageUnavailable
from freqbench.core.files import filesystems, storage
from freqbench.engine import retry, run

__all__ = ["cache", "here", "there"]

pytestmark = [pytest.mark.chaos, pytest.mark.usefixtures("cache")]


def test_large_object_sent_in_parts_is_there_whole_or_not_at_all(s3: S3, s3_root: str) -> None:
    path = storage.join(s3_root, "a.bin")
    large = bytes(101 << 20)
    storage.write_atomic(path, OLD)
    s3.fault("cut", times=99)
    with pytest.raises(StorageUnavailable):
        storage.write_atomic(path, large)
    s3.fault("none")
    assert storage.read_bytes(path) == OLD
    storage.write_atomic(path, large)
    assert storage.read_bytes(path) == large


def test_unit_waits_for_unreachable_data(s3: S3, there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    retries = {"mode": "standard", "total_max_attempts": 1}
    monkeypatch.setattr(filesystems, "S3_CONFIG", {"connect_timeout": 2, "read_timeout": 5, "retries": retries})
    monkeypatch.setattr(filesystems, "S3_RETRIES", 1)
    monkeypatch.setattr(retry, "WAITS_S", (0.0, 0.0, 0.0))
    grid = tiny_job.expanded(content(there, save_adversarial="nifti"))[1]
    for method, match in (("HEAD", "imagesTr"), ("PUT", "volumes")):
        s3.fault("refuse", method=method, match=match, times=3)
        summary = run.execute(grid, f"{there}/{method}", Console(file=io.StringIO()), run.RunOptions(engine="serial"))
        assert (summary.num_new, summary.num_failed) == (3, 0)
