"""Data, checkpoints and results in object storage give what they give on a disk; on an S3 server over HTTP."""

from pathlib import Path
from typing import Any

import pytest
import tiny_job
import torch
from data.conftest import Folder
from s3_server import S3

from freqbench import models
from freqbench.core.errors import CheckpointError, DataError, MissingDataError, StorageRefused, UserError
from freqbench.core.files import storage
from freqbench.core.plugins import trusting
from freqbench.data import Dataset
from freqbench.job.schema import build_dataset
from freqbench.models import ModelEntry, ModelSpec, resolve

CPU = torch.device("cpu")
DATA = {"name": "small", "loader": "decathlon", "split": "validation", "intensity": {"window": [0, 200]}}


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder `data` with three cases, and a checkpoint beside it."""
    (tmp_path / "here" / "data").mkdir(parents=True)
    Folder(tmp_path / "here" / "data")
    tiny_job.save_weights(tmp_path / "here" / "unet.safetensors", num_classes=3)
    return tmp_path / "here"


@pytest.fixture
def there(here: Path, s3_root: str) -> str:
    """The same in object storage."""
    upload(here, s3_root)
    return s3_root


def upload(folder: Path, uri: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            storage.write_atomic(storage.join(uri, path.relative_to(folder).as_posix()), path.read_bytes())


def dataset(root: Path | str, **more: Any) -> Dataset:
    return build_dataset({**DATA, "root": str(root), **more}, "datasets[0]")


def content(root: Path | str, cases: int = 3, **changes: Any) -> dict[str, Any]:
    return tiny_job.job(
        datasets=[{**DATA, "root": storage.join(str(root), "data"), "cases": cases}],
        models=[{"name": "a", "checkpoint": storage.join(str(root), "unet.safetensors")}],
        attacks=[{"name": "fgsm", "eps": "8/255"}],
        metrics=["dsc"],
        **changes,
    )


def resolved(path: Path | str, **entry: Any) -> ModelSpec:
    with trusting():
        return resolve(ModelEntry(**{"name": "m", "checkpoint": str(path), **entry}), 3)


def names(requests: list[str], method: str = "GET") -> list[str]:
    """Files that were got, sorted; listings have none."""
    return sorted(each.rpartition("/")[2] for each in requests if each.startswith(f"{method} ") and "." in each)


def test_dataset_at_a_uri_has_its_identities_fetched_once(s3: S3, here: Path, there: str) -> None:
    s3.requests()
    some = dataset(f"{there}/data", cases=["b"])
    volume = some.load(some.refs()[0])
    assert names(s3.requests()) == ["b.nii.gz", "b.nii.gz", "dataset.json"]
    ours = dataset(here / "data")
    theirs = dataset(f"{there}/data")
    assert (ours.whole_recipe(), ours.refs()) == (theirs.whole_recipe(), theirs.refs())
    assert [*map(ours.case_key, ours.refs())] == [*map(theirs.case_key, theirs.refs())]
    assert torch.equal(ours.load(ours.refs()[1]).image, volume.image)
    s3.requests()
    assert torch.equal(theirs.load(theirs.refs()[1]).image, volume.image)
    assert names(s3.requests()) == []


def test_damaged_copies_are_fetched_again_replaced_refused(here: Path, there: str, cache: Path) -> None:
    theirs = dataset(f"{there}/data", cases=1)
    (ref,) = theirs.refs()
    whole = theirs.load(ref)
    copies = list(cache.rglob("a.nii.gz"))
    assert len(copies) == 2
    for copy in copies:
        copy.write_bytes(bytes(copy.stat().st_size))
    assert torch.equal(theirs.load(ref).image, whole.image)
    storage.write_atomic(f"{there}/data/imagesTr/a.nii.gz", (here / "data/imagesTr/b.nii.gz").read_bytes())
    with pytest.raises(DataError, match=f"^{there}/data/imagesTr/a.nii.gz: expected the content that was planned"):
        theirs.load(ref)


def test_data_not_there_is_told_apart_from_data_refused(s3: S3, there: str) -> None:
    s3.fault("refuse", method="GET", status=403, times=99, match="labelsTr/b")
    with pytest.raises(StorageRefused, match=r"labelsTr/b\.nii\.gz: access denied"):
        dataset(f"{there}/data").refs()
    storage.remove(f"{there}/data/labelsTr/b.nii.gz")
    with pytest.raises(MissingDataError, match=r"labelsTr/b\.nii\.gz: expected .* case b, found no file"):
        dataset(f"{there}/data").refs()
    with pytest.raises(MissingDataError, match=r"^s3://.*/nothing/dataset\.json: expected the JSON list of cases"):
        dataset(f"{there}/nothing").refs()


@pytest.mark.parametrize(
    ("name", "entry"), [("unet.safetensors", {}), ("net.onnx", {"arch": "onnx", "roi": (16, 16, 16)})]
)
def test_checkpoint_at_uri(s3: S3, s3_root: str, tmp_path: Path, cache: Path, name: str, entry: dict[str, Any]) -> None:
    """A copy that was damaged on the node is fetched again."""
    uri = f"{s3_root}/{name}"
    tiny_job.save_weights(tmp_path / "unet.safetensors", num_classes=3)
    if entry:
        from models import onnx_file

        onnx_file.write(tmp_path / name)
    storage.write_atomic(uri, (tmp_path / name).read_bytes())
    s3.requests()
    ours = resolved(tmp_path / name, **entry)
    theirs = resolved(uri, **entry)
    assert (theirs.model_id, theirs.checkpoint) == (ours.model_id, uri)
    x = torch.rand(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with trusting():
        assert torch.equal(models.load(ours, CPU)(x), models.load(theirs, CPU)(x))
    assert names(s3.requests()) == [name]
    (copy,) = cache.rglob(name)
    copy.write_bytes(bytes(copy.stat().st_size))
    with trusting():
        assert models.load(theirs, CPU).roi == (16, 16, 16)
    storage.write_atomic(uri, b"another")
    with trusting(), pytest.raises(UserError, match=rf"^{uri}: expected sha256 {theirs.checkpoint_sha256[:12]}"):
        models.load(theirs, CPU)


def test_nnunet_folder_is_read_from_a_uri_sparingly(s3: S3, s3_root: str, tmp_path: Path) -> None:
    pytest.importorskip("dynamic_network_architectures")
    from models import nnunet_folder

    folder = tmp_path / "trained"
    (folder / "fold_0" / "validation").mkdir(parents=True)
    nnunet_folder.write(folder)
    (folder / "fold_0" / "validation" / "case.nii.gz").write_bytes(b"not wanted")
    upload(folder, f"{s3_root}/trained")
    s3.requests()
    ours, theirs = (resolved(path, arch="nnunet") for path in (folder, f"{s3_root}/trained"))
    assert ours.model_id == theirs.model_id
    models.load(theirs, CPU)
    assert names(s3.requests()) == ["checkpoint_final.pth", "dataset.json", "plans.json"]
    storage.remove(f"{s3_root}/trained/plans.json")
    with pytest.raises(CheckpointError, match=f"^{s3_root}/trained: expected an nnU-Net v2 folder"):
        resolved(f"{s3_root}/trained", arch="nnunet")


@pytest.mark.integration
def test_job_in_object_storage_gives_rows_and_volumes_of_disk(here: Path, there: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    far = f"{there}/out"
    assert tiny_job.execute(content(here, 1, save_adversarial="nifti"), out).num_new == 1
    assert tiny_job.execute(content(there, 1, save_adversarial="nifti"), far).num_new == 1
    assert tiny_job.rows(far) == tiny_job.rows(out)
    assert tiny_job.class_rows(far) == tiny_job.class_rows(out)
    (ours,), (theirs,) = (storage.list_below(str(place), "adversarial.nii.gz") for place in (out, far))
    assert ours == theirs
    assert storage.read_bytes(f"{far}/{theirs}") == (out / ours).read_bytes()
    assert tiny_job.execute(content(there, 1, save_adversarial="nifti"), far).num_new == 0
