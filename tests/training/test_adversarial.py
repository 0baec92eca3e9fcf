"""Adversarial training from job to stored weights, on small phantoms."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from freqbench import models
from freqbench.core.errors import UserError
from freqbench.models.checkpoints import files
from freqbench.training import TrainJob, identities, train
from freqbench.training import loop as loops
from freqbench.training.lists import job_lists

MakeJob = Callable[..., TrainJob]
NET = {"arch": "unet", "args": {"channels": [4, 8], "strides": [2], "num_res_units": 1}, "roi": [16, 16, 16]}
CLEAN = {"name": "clean", **NET}
PGD = {"name": "pgd", "eps": "4/255", "steps": 2}
VAFT = {
    "name": "vaft",
    "objective": "vaft",
    "attack": {"name": "vafa", "q_max": 20, "steps": 2, "block": 8},
    "frequency_consistency": {"weight": 1, "form": "released", "block": "whole"},
}
QUICK = {"attack": {"name": "fgsm", "eps": "4/255"}}


@pytest.fixture
def job_of(tiny_job: MakeJob) -> MakeJob:
    def make(*given: dict[str, Any], **changes: Any) -> TrainJob:
        return tiny_job(**{"models": [CLEAN, *given], "steps": 4, "loaders": 0, "validation": QUICK} | changes)

    return make


@pytest.fixture(scope="module")
def trained(tiny_job: MakeJob, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainJob, Path]:
    """A clean and a robust model."""
    out = tmp_path_factory.mktemp("out")
    job = tiny_job(models=[CLEAN, VAFT], steps=4, validation=QUICK)
    train(job, str(out), progress=False)
    return job, out


def weights(path: str | Path) -> dict[str, Tensor]:
    return files.read_state_dict(str(path))


def largest(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    return max(float((first[key] - second[key]).abs().max()) for key in first)


def test_adversarial_training_begins_at_the_clean_weights(
    job_of: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: dict[str, dict[str, Tensor]] = {}
    step = loops.Trainer.step

    def watched(trainer: loops.Trainer, batches: Any) -> None:
        state = trainer.state
        begun.setdefault(trainer.training.model.name, {k: v.clone() for k, v in state.net.state_dict().items()})
        step(trainer, batches)

    monkeypatch.setattr(loops.Trainer, "step", watched)
    train(job_of({"name": "at", "objective": "at", "attack": PGD}), str(tmp_path), progress=False)
    assert largest(begun["at"], weights(tmp_path / "clean" / "best.safetensors")) == 0
    assert largest(begun["at"], begun["clean"]) > 0


@pytest.mark.parametrize("model", [{"name": "at", "objective": "at", "attack": PGD}, VAFT], ids=["at", "vaft"])
def test_interrupted_and_resumed_ends_as_uninterrupted(
    job_of: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: dict[str, Any]
) -> None:
    job, name = job_of({**model, "random_budget": [6, 20] if model is VAFT else ["2/255", "8/255"]}), model["name"]
    train(job, str(tmp_path / "whole"), progress=False)
    step = loops.Trainer.step

    def cut(trainer: loops.Trainer, batches: Any) -> None:
        step(trainer, batches)
        if trainer.training.model.name == name and trainer.state.step == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loops.Trainer, "step", cut)
    with pytest.raises(KeyboardInterrupt):
        train(job, str(tmp_path / "cut"), progress=False)
    monkeypatch.setattr(loops.Trainer, "step", step)
    train(job, str(tmp_path / "cut"), progress=False)
    cut_short, whole = (weights(tmp_path / folder / name / "best.safetensors") for folder in ("cut", "whole"))
    assert largest(cut_short, whole) == 0
    logs = [(tmp_path / folder / name / "log.csv").read_bytes() for folder in ("cut", "whole")]
    assert logs[0] == logs[1]


def test_crops_in_parts_give_the_gradient_of_all(
    job_of: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the consistency, whose released form is a ratio over what goes through the network at once."""
    found: dict[str, list[Tensor]] = {}
    clip = torch.nn.utils.clip_grad_norm_

    def noted(parameters: Any, limit: float) -> Tensor:
        parameters = list(parameters)
        found[name] = [parameter.grad.clone() for parameter in parameters]
        return clip(parameters, limit)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", noted)
    for name, accumulate in (("whole", 1), ("parts", 2)):
        model = {**VAFT, "frequency_consistency": None, "start": "scratch", **NET, "accumulate": accumulate}
        train(job_of(model, models=[model], steps=1, warmup_steps=0), str(tmp_path / name), progress=False)
    for whole, parts in zip(found["whole"], found["parts"], strict=True):
        assert torch.allclose(whole, parts, atol=1e-6)


def test_a_gradient_is_clipped_to_its_norm(job_of: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_

    def noted(parameters: Any, limit: float) -> Tensor:
        parameters = list(parameters)
        before = clip(parameters, limit)
        norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in parameters])))
        return before

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", noted)
    train(job_of(clip_norm=0.01), str(tmp_path), progress=False)
    assert norms == pytest.approx([0.01] * 4, rel=1e-3)


def test_bf16_computes_in_it_and_keeps_float32_weights(job_of: MakeJob, tmp_path: Path) -> None:
    results = {}
    for precision in ("fp32", "bf16"):
        job = job_of({**VAFT, "start": "scratch", **NET}, precision=precision)
        train(job, str(tmp_path / precision), progress=False, only=("vaft",))
        results[precision] = weights(tmp_path / precision / "vaft" / "best.safetensors")
    assert {tensor.dtype for tensor in results["bf16"].values()} == {torch.float32}
    assert 1e-4 < largest(results["bf16"], results["fp32"]) < 0.2


def test_only_trains_what_is_wanted_and_what_it_starts_from(job_of: MakeJob, tmp_path: Path) -> None:
    job = job_of({"name": "at", "objective": "at", "attack": PGD}, VAFT)
    assert [result.name for result in train(job, str(tmp_path), progress=False, only=("vaft",))] == ["clean", "vaft"]
    assert not (tmp_path / "at").exists()


def test_weights_are_chosen_under_the_quick_attack(trained: tuple[TrainJob, Path]) -> None:
    _, out = trained
    rows = (out / "vaft" / "log.csv").read_text().splitlines()[1:]
    clean, attacked = zip(*[[float(value) for value in row.split(",")[6:8]] for row in rows], strict=True)
    best = max(range(len(rows)), key=lambda i: clean[i] + attacked[i])
    result = json.loads((out / "vaft" / "training.json").read_text())["result"]
    assert (result["dice_select"], result["dice_attacked"]) == pytest.approx((clean[best], attacked[best]), rel=1e-5)


def test_the_stored_file_says_all_that_a_benchmark_wants(trained: tuple[TrainJob, Path]) -> None:
    job, out = trained
    metadata = models.read_metadata(str(out / "vaft" / "best.safetensors"))
    dataset = job_lists(job)["train"]
    assert (metadata["arch"], metadata["roi"], metadata["args"]) == ("unet", [16, 16, 16], NET["args"])
    assert metadata["class_names"] == list(dataset.class_names)
    assert metadata["preprocess"] == dataset.space.model_dump(mode="json")
    assert "phantom" in metadata["licence"]
    record = metadata["training"]
    assert record["objective"] == "vaft"
    assert record["attack"]["name"] == "vafa"
    assert record["start"]["identity"] == identities(job)["clean"]
    assert record["fingerprints"]["train"] == [ref.fingerprint for ref in dataset.refs()]


def test_training_json_says_what_made_the_weights(trained: tuple[TrainJob, Path]) -> None:
    job, out = trained
    content = json.loads((out / "vaft" / "training.json").read_text())
    assert TrainJob.model_validate(content["job"]) == job
    assert content["identity"] == identities(job)["vaft"]
    assert content["versions"]["torch"] == torch.__version__
    assert content["seed"] == 0
    assert content["seconds"]["steps"] > content["seconds"]["waited_for_crops"] > 0
    assert content["seconds"]["gpu"] == 0 or torch.cuda.is_available()


def test_curves_are_drawn_where_tensorboard_is(trained: tuple[TrainJob, Path]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, out = trained
    events = EventAccumulator(str(out / "vaft" / "tensorboard")).Reload()
    rows = (out / "vaft" / "log.csv").read_text().splitlines()[1:]
    for event, row in zip(events.Scalars("dice_attacked"), rows, strict=True):
        assert event.step == int(row.split(",")[0])
        assert event.value == pytest.approx(float(row.split(",")[7]), rel=1e-5)


def test_crops_cut_by_other_processes_are_the_same(trained: tuple[TrainJob, Path], tmp_path: Path) -> None:
    job, out = trained
    train(job.model_copy(update={"loaders": 2}), str(tmp_path), progress=False, only=("clean",))
    first, second = (weights(folder / "clean" / "best.safetensors") for folder in (out, tmp_path))
    assert largest(first, second) == 0


def test_a_crop_larger_than_volumes_is_told_once(
    job_of: MakeJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(
        job_of(
            VAFT,
            dataset={"name": "phantom", "shape": [24, 20, 16], "cases": 4},
            models=[{**CLEAN, "roi": [16, 24, 16]}, VAFT],
        ),
        str(tmp_path),
    )
    line = "4 of 4 volumes are smaller than the crop 16x24x16 on some axis: padded with zeros"
    assert capsys.readouterr().err.splitlines().count(line) == 1


def test_a_file_that_cannot_grow_is_one_error_and_leaves_no_part(job_of: MakeJob, tmp_path: Path) -> None:
    """A real limit of the system on files, in a process of its own."""
    import subprocess
    import sys

    code = (
        "import resource, signal, sys\n"
        "from freqbench.training import TrainJob, train\n"
        "job = TrainJob.model_validate_json(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "try:\n    train(job, sys.argv[2], progress=False)\n"
        "except OSError as error:\n    print(error.errno)\n"
    )
    job = job_of().model_dump_json(exclude_none=True)
    done = subprocess.run([sys.executable, "-c", code, job, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "27\n", done.stderr  # EFBIG
    left = [path.name for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "tensorboard"]
    assert left == []


BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"objective": "at"}, {}, "expected an attack for objective: at, got none"),
    ({"attack": PGD}, {}, "expected no attack for objective: clean"),
    ({"objective": "at", "attack": PGD, "frequency_consistency": {}}, {}, "objective: vaft alone"),
    ({"objective": "at", "attack": {"name": "pgd", "eps": 8}}, {}, r"at: attack\.eps: .*8/255"),
    ({"objective": "at", "attack": {"name": "pdg", "eps": "4/255"}}, {}, "Did you mean 'pgd'"),
    ({"objective": "at", "attack": {**PGD, "organs": ["heart"]}}, {}, r"attack\.organs: .*heart"),
    ({"objective": "at", "attack": {**PGD, "eps": ["4/255", "8/255"]}}, {}, r"at: attack\.eps"),
    ({"objective": "at", "attack": PGD, "random_budget": ["8/255", "4/255"]}, {}, r"\[lowest, highest\]"),
    ({"objective": "at", "attack": PGD, "random_budget": [1, 4]}, {}, r"attack\.eps"),
    ({**VAFT, "random_budget": [2, 20]}, {}, r"attack\.q_max: expected at least q_min = 5"),
    ({"objective": "at", "attack": PGD, "start": "nowhere.pt"}, {}, "nowhere.pt"),
    ({"objective": "at", "attack": PGD, "start": "at"}, {}, "at -> at has no beginning"),
    ({"objective": "at", "attack": PGD, "start": "zoo://phantom/segresnet", "arch": "unet"}, {}, "segresnet"),
    ({"objective": "at", "attack": PGD}, {"accumulate": 3}, "expected a batch_size that accumulate x workers = 3"),
    ({}, {"validation": {"choose_by": "mean"}}, r"choose_by: expected clean without an attack, got mean"),
]


@pytest.mark.parametrize(("model", "changes", "message"), BAD)
def test_bad_input_is_one_line_before_anything_is_trained(
    job_of: MakeJob, tmp_path: Path, model: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((UserError, ValueError), match=message) as refused:
        train(job_of({"name": "at", **(model if model else NET)}, **changes), str(tmp_path), progress=False)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_two_clean_models_leave_the_start_to_be_said(job_of: MakeJob) -> None:
    with pytest.raises(
        UserError, match="the job has clean, other: name a model or a checkpoint, or say start: scratch"
    ):
        job_of({"name": "other", **NET}, {"name": "at", "objective": "at", "attack": PGD})


def test_lists_of_two_are_allowed_where_the_job_says_so_and_recorded(job_of: MakeJob, tmp_path: Path) -> None:
    splits = {"train": "train", "select": "test", "test": "test", "selected_on_test": True}
    train(job_of(splits=splits), str(tmp_path), progress=False)
    record = models.read_metadata(str(tmp_path / "clean" / "best.safetensors"))["training"]
    assert record["splits"] == splits


@pytest.mark.parametrize(
    "change", [{"random_budget": [6, 20]}, {"frequency_consistency": {"form": "paper"}}, {"attack": PGD}, {"lr": 0.5}]
)
def test_what_shapes_weights_is_in_their_identity(job_of: MakeJob, change: dict[str, Any]) -> None:
    before, after = identities(job_of(VAFT)), identities(job_of({**VAFT, **change}))
    assert before["clean"] == after["clean"]
    assert before["vaft"] != after["vaft"]


def test_another_clean_model_makes_another_robust_one(job_of: MakeJob) -> None:
    before = identities(job_of(VAFT))
    after = identities(job_of(VAFT, models=[{**CLEAN, "lr": 0.5}, VAFT]))
    assert before["vaft"] != after["vaft"]
