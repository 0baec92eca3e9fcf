"""Files that travel with a job to a cluster, by the fields of its file that hold paths."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny_job
import yaml
from tiny_training import benchmark, training, write

from freqbench.core import config
from freqbench.core.errors import UserError
from freqbench.core.names import packaged_jobs
from freqbench.job.schema import JobSpec, build_dataset
from freqbench.job.training import TrainJob
from freqbench.remote import working_directory
from freqbench.remote.working_directory import WorkingDirectory
from freqbench.training import link

ROOT = Path(__file__).parents[2]
DECATHLON = {"name": "abdomen", "loader": "decathlon"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a job file in jobs/ and files that a job may name."""
    for name in ("best.pt", "nets/a.pt", "data/dataset.json", "data/imagesTr/a.nii.gz", "data/.git/x", "jobs/y.pt"):
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / name).write_text(name)
    (tmp_path / "outside.pt").write_text("outside")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def pack(folder: Path, content: Mapping[str, Any], at: str = "jobs/job.yaml") -> WorkingDirectory:
    (folder / at).parent.mkdir(parents=True, exist_ok=True)
    (folder / at).write_text(yaml.safe_dump(dict(content), sort_keys=False))
    return working_directory.pack(config.load(at, JobSpec))


def with_checkpoint(text: str) -> dict[str, Any]:
    content = tiny_job.small()
    content["models"] = [copy.deepcopy(content["models"][0]) | {"checkpoint": text}]
    return content


def with_data(**keys: Any) -> dict[str, Any]:
    return tiny_job.small(datasets=[{**DECATHLON, **keys}])


@pytest.mark.parametrize("text", ["nets/a.pt", "{here}/nets/a.pt"])
def test_checkpoint_travels_and_its_path_is_relative_on_nodes(folder: Path, text: str) -> None:
    packed = pack(folder, with_checkpoint(text.format(here=folder)))
    assert {k: file.name for k, file in packed.files.items()} == {"jobs/job.yaml": "job.yaml", "nets/a.pt": "a.pt"}
    assert packed.job == "jobs/job.yaml"
    assert packed.overrides == (() if text == "nets/a.pt" else ('models.0.checkpoint="nets/a.pt"',))
    assert config.load("jobs/job.yaml", JobSpec, packed.overrides).models[0].checkpoint == "nets/a.pt"


def test_a_job_elsewhere_brings_what_is_in_its_own_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "nets/job.yaml").write_text(yaml.safe_dump(with_checkpoint(str(folder / "nets/a.pt"))))
    monkeypatch.chdir(folder / "data")
    packed = working_directory.pack(config.load("../nets/job.yaml", JobSpec))
    assert (packed.job, sorted(packed.files)) == ("job.yaml", ["a.pt", "job.yaml"])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("../outside.pt", r"models\[0\].checkpoint: expected a path inside .*s3://.*file:///"),
        ("~/best.pt", "outside"),
        ("link.pt", "outside"),
        ("data/.git/x", "hidden"),
        ("nets/b.pt", "found none at nets/b.pt"),
    ],
)
def test_a_path_that_may_not_travel_is_refused(folder: Path, text: str, complaint: str) -> None:
    (folder / "link.pt").symlink_to(folder.parent / "outside.pt")
    with pytest.raises(UserError, match=complaint):
        pack(folder, with_checkpoint(text))


CHECKPOINTS = ["s3://lab/a.pt", "file:///nfs/a.pt", "${CHECKPOINTS}/a.pt", "$CHECKPOINTS/a.pt"]
NODES = [*CHECKPOINTS, "zoo://phantom/unet", "random:7"]


@pytest.mark.parametrize(
    "content",
    [*map(with_checkpoint, NODES), with_data(root="s3://lab/abdomen", list="mine.json")],
    ids=[*NODES, "list"],
)
def test_a_path_of_the_nodes_stays_as_it_is(folder: Path, content: dict[str, Any]) -> None:
    packed = pack(folder, content)
    assert (sorted(packed.files), packed.overrides) == (["jobs/job.yaml"], ())


@pytest.mark.parametrize(
    "content",
    [{"models": [{"name": "b", "bundle": "data"}]}, {"datasets": [{**DECATHLON, "root": "./data", "labels": 2}]}],
)
def test_a_bundle_or_root_travels_whole_without_what_is_hidden(folder: Path, content: dict[str, Any]) -> None:
    packed = pack(folder, tiny_job.small(**content))
    assert sorted(packed.files) == ["data/dataset.json", "data/imagesTr/a.nii.gz", "jobs/job.yaml"]
    assert packed.overrides == ()


def test_list_beside_nodes_data_travels(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list's URI is relative to where a worker is, as Ray puts it into the working directory."""
    (folder / "mine.json").write_text(json.dumps({"test": [{"image": "a.nii.gz", "label": "b.nii.gz"}]}))
    packed = pack(folder, with_data(root="${FREQBENCH_DATA}/abdomen", labels=2, list=str(folder / "mine.json")))
    packed.unpack(tmp_path / "node")
    monkeypatch.chdir(tmp_path / "node")
    monkeypatch.setenv("FREQBENCH_DATA", "/nowhere")
    (entry,) = config.load(packed.job, JobSpec, packed.overrides).datasets
    assert build_dataset(entry, "job").listed_cases() == 1


def test_a_module_of_a_class_is_on_top_wherever_it_was(folder: Path) -> None:
    (folder / "jobs/mine.py").write_text("")
    (folder / "theirs/__pycache__").mkdir(parents=True)
    for name in ("theirs/net.py", "theirs/__pycache__/net.pyc"):
        (folder / name).write_text("")
    model = {"name": "n", "arch": "theirs.net:Net", "checkpoint": "random"}
    attacks = [{"name": "mine:Attack"}, {"name": "not_here:Attack"}]
    packed = pack(folder, tiny_job.small(models=[model], attacks=attacks))
    assert sorted(packed.files) == ["jobs/job.yaml", "mine.py", "theirs/net.py"]


def test_more_than_may_travel_is_refused_by_the_field(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (folder / "big.pt").open("wb") as stream:
        stream.truncate(working_directory.LIMIT_BYTES)
    with pytest.raises(UserError, match=r"models\[0\].checkpoint: expected at most 100 MiB .* put big.pt where"):
        pack(folder, with_checkpoint("big.pt"))


ATTACKING = [name for name, path in packaged_jobs().items() if "\nattacks:" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", ATTACKING)
def test_packaged_jobs_need_no_file_but_their_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data and checkpoints of others are on the nodes; networks of a training job of one's own have to be there."""
    monkeypatch.chdir(ROOT)
    place = f"jobs/{name}.yaml"
    spec = link.describe_job(config.load(place, JobSpec))
    working_directory.require_zoo(spec)
    own = [str(model.checkpoint) for model in spec.models if str(model.checkpoint).startswith("runs/")]
    if any(not (ROOT / checkpoint).exists() for checkpoint in own):
        with pytest.raises(UserError, match=r"found none at runs/(hippocampus|acdc)_train"):
            working_directory.pack(spec)
        return
    packed = working_directory.pack(spec)
    assert packed.job == place
    assert [override.partition("=")[0] for override in packed.overrides] == (["training"] if spec.training else [])
    assert all(each == place or each.startswith("runs/") for each in packed.files)


@pytest.mark.parametrize(
    "text", ["s3://AKIA123:abc/def+gh@bucket/x", "https://u:p@host/x.pt", "https://host/x?X-Amz-Signature=0a"]
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UserError, match="credentials come from the node") as raised:
        working_directory.refuse_credentials(f"checkpoint: {text}", "job.yaml")
    assert text.split("@")[0] not in str(raised.value)
    for plain in ("s3://bucket/a@b:c", "abfs://box@lab.dfs.core.windows.net/x", "http://head:8265/x", "file:///a:b/c"):
        working_directory.refuse_credentials(f"checkpoint: {plain}", "job.yaml")


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "hf_token", "DB_PASSWORD"])
def test_a_variable_that_looks_secret_does_not_travel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "hush")
    with pytest.raises(UserError, match="credentials come from the node") as raised:
        working_directory.environment([name])
    assert "hush" not in str(raised.value)


def test_only_variables_that_are_named_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREQBENCH_DATA", "/nfs/data")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert working_directory.environment([]) == {}
    assert working_directory.environment(["FREQBENCH_DATA"]) == {"FREQBENCH_DATA": "/nfs/data"}
    with pytest.raises(UserError, match=r"--env NOT_SET_ANYWHERE: .* found none"):
        working_directory.environment(["NOT_SET_ANYWHERE"])


def test_unknown_zoo_checkpoint_is_found_before_anything_is_sent() -> None:
    job = tiny_job.small(models=[{"name": "u", "checkpoint": "zoo://x/unett"}])
    with pytest.raises(UserError, match=r"models\[0\].checkpoint: .*'x/unett'"):
        working_directory.require_zoo(config.validate(job, JobSpec, "job.yaml"))


def with_training(entry: Any, **dataset: Any) -> dict[str, Any]:
    """A job that trains its network on a folder; `adv.yaml` is the training job where `entry` is it."""
    write(Path.cwd(), "adv.yaml", training(dataset={"name": "abdomen", "loader": "decathlon", **dataset}))
    return benchmark("train://net", training=[entry])


def pack_training(folder: Path, content: Mapping[str, Any]) -> tuple[WorkingDirectory, JobSpec]:
    """Returns what travels, and the job as it is read on the nodes."""
    (folder / "jobs/job.yaml").write_text(yaml.safe_dump(dict(content), sort_keys=False))
    packed = working_directory.pack(link.describe_job(config.load("jobs/job.yaml", JobSpec)))
    (folder / "adv.yaml").unlink()
    return packed, config.load("jobs/job.yaml", JobSpec, packed.overrides)


@pytest.mark.parametrize("entry", ["adv.yaml", {"job": "adv.yaml", "out": "s3://lab/nets"}])
def test_a_training_job_travels_with_its_data(folder: Path, entry: Any) -> None:
    root = "data" if entry == "adv.yaml" else str(folder / "data")  # which is made relative on the nodes
    packed, there = pack_training(folder, with_training(entry, root=root))
    assert sorted(packed.files) == ["data/dataset.json", "data/imagesTr/a.nii.gz", "jobs/job.yaml"]
    (kept,) = link.describe_job(there).training
    assert isinstance(kept.job, TrainJob)
    assert kept.job.dataset.own["root"] == "data"
    assert kept.out == ("runs/adv" if entry == "adv.yaml" else "s3://lab/nets")
    assert there.models[0].checkpoint == "train://net"


def test_data_of_a_training_that_may_not_travel_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"jobs/job.yaml: training\[0\].dataset.root: expected a path inside"):
        pack_training(folder, with_training("adv.yaml", root=".."))
    packed, _ = pack_training(folder, with_training("adv.yaml", root="${FREQBENCH_DATA}/x"))
    assert sorted(packed.files) == ["jobs/job.yaml"]
