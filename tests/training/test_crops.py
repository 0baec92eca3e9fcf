from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from engine.cases import case_of

from freqbench.core.types import Case, Shape
from freqbench.job.training import Augmentation, Noise
from freqbench.training.crops import CropSampler, load_batches

NONE = Augmentation(flip=0, rotate90=0, scale_intensity=0, shift_intensity=0)


def make_case(number: int, shape: Shape = (12, 10, 8)) -> Case:
    """Every voxel holds its own number; one foreground voxel far from the rim."""
    image = 1 + number * 10_000 + torch.arange(np.prod(shape), dtype=torch.float32).reshape(1, *shape)
    label = torch.zeros(1, *shape, dtype=torch.uint8)
    label[0, shape[0] // 2, shape[1] // 2, shape[2] // 2] = 1
    return case_of(image, label)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    cases = [make_case(number) for number in range(3)]
    walked = CropSampler(cases, (6, 6, 4), Augmentation(), seed=5)
    for step in range(4):
        images, labels = walked.crops(range(2 * step, 2 * step + 2))
    fresh_images, fresh_labels = CropSampler(cases, (6, 6, 4), Augmentation(), seed=5).crops(range(6, 8))
    other_images, _ = CropSampler(cases, (6, 6, 4), Augmentation(), seed=6).crops(range(6, 8))
    assert torch.equal(images, fresh_images)
    assert torch.equal(labels, fresh_labels)
    assert not torch.equal(images, other_images)


@pytest.mark.parametrize("kind", ["voxels", "bias_field", "gain_offset", "dct_bands"])
def test_noise_is_change_of_its_own_for_each_crop_and_then_clamp(kind: str) -> None:
    """Voxels' changes are normal numbers of deviation sigma; the other kinds move each crop by different amounts."""
    shape = (32, 32, 32)
    numbers = range(4)
    label = torch.zeros(1, *shape, dtype=torch.uint8)
    label[0, 16, 16, 16] = 1
    case = case_of(0.5 + 0.01 * torch.rand(1, *shape), label)
    noise = Noise.model_validate({"kind": kind, "sigma": 0.05})
    bare, noisy = (CropSampler([case], shape, NONE, 0, of).crops(numbers) for of in (None, noise))
    change = noisy[0] - bare[0]
    assert noisy[0].shape == bare[0].shape
    assert torch.equal(noisy[1], bare[1])
    assert len({float(one.norm()) for one in change}) == 4
    if kind == "voxels":
        assert change.std() == pytest.approx(0.05, rel=0.02)
        assert abs(float(change.mean())) < 1e-3
    clamped, _ = CropSampler([case], shape, NONE, 0, Noise.model_validate({"kind": kind, "sigma": 20})).crops(numbers)
    assert clamped.min() >= 0
    assert clamped.max() == 1
    assert torch.equal(CropSampler([case], shape, NONE, 0, noise).crops([3])[0][0], noisy[0][3])


def test_loader_outlives_its_groups_sigterm() -> None:
    sampler = CropSampler([make_case(0)], (6, 6, 4), NONE, seed=0)
    others = psutil.Process().children()
    with load_batches(sampler, [[number] for number in range(20)], loaders=1, pinned=False) as batches:
        seen = [next(batches)]
        processes = [process for process in psutil.Process().children() if process not in others]
        for process in processes:
            process.terminate()
        seen += batches
    assert len(seen) == 20
    assert processes
    assert psutil.wait_procs(processes, timeout=20)[1] == []


def test_every_case_is_seen_once_before_any_is_seen_again() -> None:
    sampler = CropSampler([make_case(number) for number in range(6)], (6, 6, 4), NONE, seed=0)
    crops = torch.cat([sampler.crops(range(first, first + 3))[0] for first in range(0, 12, 3)])
    seen = [int(crop.amin()) // 10_000 for crop in crops]
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))
    assert seen[:6] != seen[6:]


def test_half_of_the_crops_are_centred_on_foreground() -> None:
    _, labels = CropSampler([make_case(0, (24, 24, 24))], (2, 2, 2), NONE, seed=0).crops(range(100))
    centred = int(labels.amax(dim=(1, 2, 3, 4)).sum())
    assert 30 <= centred <= 70  # binomial: 50 +- 5, and a background crop meets the one voxel in 0.06 % of cases


def test_image_and_label_are_changed_alike() -> None:
    case = make_case(0)
    value = float(case.image[case.label > 0])
    always = Augmentation(flip=0.5, rotate90=1, scale_intensity=0, shift_intensity=0)
    images, labels = CropSampler([case], (8, 8, 6), always, seed=0).crops(range(32))
    assert (labels > 0).any()
    assert (images[labels > 0] == value).all()


def test_intensities_change_by_at_most_a_tenth() -> None:
    flat = replace(make_case(0, (4, 4, 4)), image=torch.full((1, 4, 4, 4), 0.5))
    always = Augmentation(flip=0, rotate90=0, scale_intensity=1, shift_intensity=1)
    images, _ = CropSampler([flat], (4, 4, 4), always, seed=0).crops(range(64))
    values = images.amax(dim=(1, 2, 3, 4))
    assert values.max() <= 0.5 * 1.1 + 0.1
    assert values.min() >= 0.5 * 0.9 - 0.1
    assert values.std() > 0.03


@pytest.mark.parametrize("roi", [(8, 6, 4), (6, 8, 8)])
def test_a_roi_that_is_not_square_is_never_turned(roi: Shape) -> None:
    images, _ = CropSampler([make_case(0)], roi, Augmentation(rotate90=1), seed=0).crops(range(8))
    assert images.shape == (8, 1, *roi)


def test_a_small_volume_is_padded_on_both_sides() -> None:
    case = make_case(0, (4, 4, 3))
    images, _ = CropSampler([case], (4, 8, 4), NONE, seed=0).crops(range(1))
    assert torch.equal(images[0, :, :, 2:6, 0:3], case.image)
    assert images[0, :, :, :2].abs().sum() == images[0, :, :, 6:].abs().sum() == images[0, ..., 3].abs().sum() == 0
