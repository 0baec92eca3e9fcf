"""Classes of one's own that plans of nnU-Net name run with trust, as nnunetv2 itself runs them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import nnunet_folder
from models.conftest import facts
from pipelines import plans
from pipelines.plans import Plan

from freqbench.core.errors import UserError
from freqbench.core.plugins import trusting
from freqbench.pipelines.nnunet import NnunetPipeline

pytest.importorskip("nnunetv2", reason="nnunetv2 is not installed")
plans.module()  # without a word of its own

from nnunetv2.preprocessing.normalization import default_normalization_schemes as schemes  # noqa: E402
from nnunetv2.preprocessing.preprocessors import default_preprocessor as preprocessors  # noqa: E402
from nnunetv2.preprocessing.resampling import default_resampling as resampling  # noqa: E402
from nnunetv2.utilities.label_handling import label_handling as labels  # noqa: E402


class Smooth(preprocessors.DefaultPreprocessor):  # type: ignore[misc]
    """Averages neighbours along an axis before all else."""

    def run_case_npy(self, data: Any, *rest: Any) -> Any:
        return super().run_case_npy((data + np.roll(data, 1, 1)) / 2, *rest)


class Alone(preprocessors.DefaultPreprocessor):  # type: ignore[misc]
    """Normalises without the method that others normalise in."""

    def run_case_npy(self, data: Any, seg: Any, properties: Any, *rest: Any) -> Any:
        whole = [[0, size] for size in data.shape[1:]]
        properties |= {"shape_before_cropping": data.shape[1:], "bbox_used_for_cropping": whole}
        properties["shape_after_cropping_and_before_resampling"] = data.shape[1:]
        return np.tanh(data / 500 - 1), np.zeros_like(data[:1], np.int8), properties


class Softened(schemes.ImageNormalization):  # type: ignore[misc]
    """A scale that is no line."""

    def run(self, image: Any, seg: Any = None) -> Any:
        return np.tanh(image / 500 - 1)


class Last(labels.LabelManager):  # type: ignore[misc]
    """Takes the class with the lowest probability."""

    def convert_probabilities_to_segmentation(self, predicted_probabilities: Any) -> Any:
        return (-predicted_probabilities).argmax(0)


def nearest(data: Any, new_shape: Any, *rest: Any, **kwargs: Any) -> Any:
    """Takes the nearest voxel."""
    at = [(np.arange(new) * old / new).astype(int) for new, old in zip(new_shape, data.shape[1:], strict=True)]
    return data[np.ix_(range(len(data)), *at)]


def stating(**keys: Any) -> Callable[[dict[str, Any]], object]:
    return lambda configuration: configuration.update(keys)


OWN = {
    "preprocessor": (preprocessors, Smooth, stating(preprocessor_name="Smooth")),
    "preprocessor that is no other": (preprocessors, Alone, stating(preprocessor_name="Alone")),
    "normalisation": (schemes, Softened, stating(normalization_schemes=["Softened"])),
    "resampling": (resampling, nearest, stating(resampling_fn_data="nearest")),
}


@pytest.mark.parametrize("name", OWN)
def test_own_class_makes_nnunets_map(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, own, change = OWN[name]
    monkeypatch.setattr(module, own.__name__, own, raising=False)
    plan = Plan(name="own", change=change, sides=(1.5, 1.5, 2.0) if own is Alone else (1.2, 1.4, 2.6))
    folder, raw = plans.written(plan, tmp_path)
    with trusting():
        ours = plans.by_freqbench(folder, raw)
    exact, _, ties = plans.wanted(plan, plans.by_nnunetv2(folder, raw, plan.folds))
    np.testing.assert_array_equal(ours.labels[~ties], exact[~ties])


def own_labels(plans: dict[str, Any], dataset: dict[str, Any], checkpoint: dict[str, Any]) -> None:
    plans["label_manager"] = "Last"


def test_an_own_label_manager_runs_with_trust_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "Last", Last, raising=False)
    folder = nnunet_folder.write(tmp_path / "n", own_labels)
    with pytest.raises(UserError, match=r"n/plans.json: unknown label_manager 'Last'.* needs --trust-code$"):
        facts("nnunet", folder)
    with trusting():
        pipeline = facts("nnunet", folder).space
    assert isinstance(pipeline, NnunetPipeline)
    assert type(pipeline.labels) is Last


def test_the_identity_follows_the_code_of_an_own_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = nnunet_folder.write(tmp_path / "n", own_labels)
    other = type("Last", (labels.LabelManager,), {"convert_probabilities_to_segmentation": lambda self, given: given})
    made = []
    for each in (Last, other, Last):
        monkeypatch.setattr(labels, "Last", each, raising=False)
        with trusting():
            space = facts("nnunet", folder).space
        assert space is not None
        made.append(space.identity())
    assert made[0] == made[2] != made[1]


def test_unknown_nnunetv2_name_is_refused_with_trust_too(tmp_path: Path) -> None:
    folder = nnunet_folder.write(tmp_path / "n", own_labels)
    with trusting(), pytest.raises(UserError, match=r"unknown label_manager 'Last'.* put your own into the folder of"):
        facts("nnunet", folder)


LACKED = ("preprocessor_name", "resampling_fn_seg_kwargs", "use_mask_for_norm", "spacing", "normalization_schemes")


@pytest.mark.parametrize("key", LACKED)
def test_a_field_that_plans_lack_is_one_line(key: str, tmp_path: Path) -> None:
    folder = nnunet_folder.write(tmp_path / "n", lambda p, d, c: p["configurations"]["3d_fullres"].pop(key))
    with pytest.raises(UserError, match=rf"n/plans.json: configurations.3d_fullres: {key}: required, but not given$"):
        facts("nnunet", folder)


@pytest.mark.parametrize("key", ["network_class_name", "arch_kwargs", "_kw_requires_import"])
def test_an_architecture_that_lacks_a_field_is_one_line(key: str, tmp_path: Path) -> None:
    folder = nnunet_folder.write(
        tmp_path / "n", lambda p, d, c: p["configurations"]["3d_fullres"]["architecture"].pop(key)
    )
    with pytest.raises(UserError, match=r"n/plans.json: configurations.3d_fullres: architecture.*: required, but not"):
        facts("nnunet", folder)
