"""Arguments of steps that load or convert, and texts that switch steps off, against MONAI's own run from the file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from draws import seeded
from monai import transforms
from monai.bundle import ConfigParser
from roads import step

from freqbench import load_dataset
from freqbench.core.code import identify
from freqbench.core.errors import DataError, UserError
from freqbench.core.plugins import trusting
from freqbench.core.types import NativeCase
from freqbench.pipelines.monai import MonaiPipeline, from_words

PIR = np.array([[0, 0, 2.0, 5], [-1.2, 0, 0, 40], [0, -1.4, 0, 30], [0, 0, 0, 1]])
LOAD = step("LoadImage")
FIRST = step("EnsureChannelFirst")
SCORES = step("NormalizeIntensity")
EIGHTS = step("ScaleIntensityRange", a_min=0, a_max=1000, b_min=0, b_max=8, clip=True)
FLOATS = step("CastToType", dtype="float32")
TURNS = [{"reverse_indexing": True}, {"swap_ij": False}, {"affine_lps_to_ras": False}]
NIBABEL = {"_target_": "NibabelReader", "as_closest_canonical": True}


class LoadImaged(transforms.LoadImaged):  # type: ignore[misc]
    """A loader of one's own by MONAI's name, which halves intensities."""

    def __call__(self, data: Mapping[Any, Any], reader: Any = None) -> dict[Any, Any]:
        return {key: value / 2 for key, value in super().__call__(data, reader).items()}


READINGS = {
    "plain": [LOAD, FIRST, SCORES],
    "canonical": [LOAD | {"reader": "NibabelReader", "as_closest_canonical": True}, FIRST, SCORES],
    "canonical, of the default reader": [LOAD | {"as_closest_canonical": True}, FIRST, SCORES],
}
READINGS |= {
    "loaded as uint8": [LOAD | {"dtype": "uint8"}, FIRST, FLOATS, SCORES],
    "loaded as int16, an expression": [LOAD | {"dtype": "$np.int16"}, FIRST, SCORES],
}
READINGS |= {
    "converted to uint8": [LOAD, FIRST, EIGHTS, step("EnsureType", dtype="$torch.uint8"), FLOATS, SCORES],
    "converted to uint8 at last": [LOAD, FIRST, EIGHTS, step("EnsureType", dtype="uint8")],
}
READINGS |= {
    "off": [LOAD, FIRST, SCORES, EIGHTS | {"_disabled_": " TRUE"}],
    "not off": [LOAD, FIRST, SCORES, EIGHTS | {"_disabled_": "yes"}],
}


@pytest.fixture
def native(tmp_path: Path) -> NativeCase:
    """A case whose file has its axes towards P, I and R."""
    voxels = torch.rand(12, 10, 8, generator=seeded(0)) * 900 + 40
    nibabel.save(nibabel.Nifti1Image(voxels.numpy(), PIR), tmp_path / "a_image.nii.gz")
    nibabel.save(nibabel.Nifti1Image((voxels > 500).numpy().astype(np.uint8), PIR), tmp_path / "a_label.nii.gz")
    files = {"image": "{case}_image.nii.gz", "label": "{case}_label.nii.gz"}
    dataset = load_dataset("pairs", root=str(tmp_path), labels=2, **files).dataset
    return dataset.native(dataset.refs()[0])


def composed(words: list[dict[str, Any]]) -> Any:
    """MONAI's Compose of the words, by its own parser."""
    content = {"imports": ["$import numpy as np"], "all": {"_target_": "Compose", "transforms": words}}
    return ConfigParser(content).get_parsed_content("all")


def from_compose(words: list[dict[str, Any]]) -> MonaiPipeline:
    return MonaiPipeline(release="0", compose=composed(words))


def from_a_job(words: list[dict[str, Any]]) -> MonaiPipeline:
    return from_words(words, "m: transforms")


@pytest.mark.parametrize("made", [from_a_job, from_compose])
@pytest.mark.parametrize("words", READINGS.values(), ids=READINGS)
def test_the_input_is_what_monai_makes_of_the_file(words: list[dict[str, Any]], made: Any, native: NativeCase) -> None:
    theirs = composed(words)({"image": native.source})["image"]
    ours = made(words).prepare(native)
    torch.testing.assert_close(ours.data, theirs.as_tensor().float(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-5)


def test_loading_of_a_callers_compose_is_the_same_after_it_was_compared(native: NativeCase) -> None:
    compose = composed(READINGS["plain"])
    loading = compose.transforms[:2]
    before = identify(loading).digest
    MonaiPipeline(release="0", compose=compose).prepare(native)
    assert identify(loading).digest == before


@pytest.mark.parametrize("name", ["canonical", "loaded as uint8", "converted to uint8", "off"])
def test_what_is_read_as_monai_does_is_in_the_identity(name: str) -> None:
    """Rows of an earlier release, which left the argument out, are not these."""
    assert "read" in from_a_job(READINGS[name]).identity()
    assert "read" not in from_a_job(READINGS["plain"]).identity()


def test_a_reader_as_an_object_turns_axes_with_trust(native: NativeCase) -> None:
    words = [LOAD | {"reader": NIBABEL}, FIRST, SCORES]
    with pytest.raises(UserError, match=r"reader is an object of NibabelReader: needs --trust-code"):
        from_a_job(words).prepare(native)
    with trusting():
        assert from_a_job(words).prepare(native).codes == "RAS"


def test_a_reader_whose_package_is_missing_is_the_default_one(native: NativeCase) -> None:
    pipeline = from_a_job([LOAD | {"reader": "ITKReader"}, FIRST, SCORES])
    plain = from_a_job(READINGS["plain"])
    assert torch.equal(pipeline.prepare(native).data, plain.prepare(native).data)


def test_a_bundles_invertd_leads_from_canonical_axes_to_the_file(native: NativeCase) -> None:
    back = step("Invert", keys="pred", transform="@preprocessing", orig_keys="image")
    before = {"_target_": "Compose", "transforms": [*READINGS["canonical"][:2], EIGHTS]}
    after = {"_target_": "Compose", "transforms": [back, step("AsDiscrete", keys="pred", argmax=True)]}
    pipeline = MonaiPipeline(release="0", config={"preprocessing": before, "postprocessing": after})
    made = pipeline.prepare(native)
    logits = torch.cat([torch.full_like(made.data, 4), made.data])
    labels = pipeline.restore(made.facts, logits, "softmax", False, False)[0]
    assert made.data.shape != native.image.shape
    assert torch.equal(labels, (native.image[0] > 500).to(torch.uint8))


@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_an_array_that_a_reader_turns_is_refused_by_the_argument(turn: dict[str, bool]) -> None:
    with pytest.raises(UserError, match=f"expected axes as in the file, got {next(iter(turn))}: leave it out"):
        from_a_job([LOAD | turn, FIRST, SCORES]).steps  # noqa: B018


def test_three_channels_of_one_are_refused_with_the_way(native: NativeCase) -> None:
    words = [*READINGS["plain"], step("RepeatChannel", repeats=3)]
    message = r"expected transforms to make 1 channels, got \(3, 12, 10, 8\): make more of a file's channel in"
    with pytest.raises(DataError, match=message):
        from_a_job(words).prepare(native)


WRONG = r"expected the input of MONAI's own reading, got other voxels: .*Mismatched elements: \d+ / 960 .*: write the f"


def own_words() -> MonaiPipeline:
    return from_a_job([LOAD | {"_target_": f"{__name__}.LoadImaged"}, FIRST, EIGHTS])


def own_compose() -> MonaiPipeline:
    steps = [LoadImaged("image"), *composed([FIRST, EIGHTS]).transforms]
    return MonaiPipeline(release="0", compose=transforms.Compose(steps))


@pytest.mark.parametrize("made", [own_words, own_compose])
def test_a_reading_that_leads_to_another_input_is_refused(made: Callable[[], Any], native: NativeCase) -> None:
    with trusting(), pytest.raises(DataError, match=WRONG):
        made().prepare(native)
