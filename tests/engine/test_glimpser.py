"""Glimpses: what they show, which case of a cell they show, and that no row hangs on them."""

import io
import logging
import math
import re
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.cases import CUBE, case_of
from tiny_job import execute, job, rows, small
from torch import Tensor

from freqbench.data.loaders.phantom import Phantom
from freqbench.engine import glimpser
from freqbench.engine.glimpser import axial_slice, slice_of_loss
from freqbench.results import Store
from freqbench.results.glimpses import MAX_BYTES, NO_CHANGE, SIDE, STEPS, Slice, paths_of, read

SMALL = small(metrics=["dsc"], datasets=[CUBE])
BOTH = {"models": job()["models"], "metrics": ["dsc"]}


def seen_on(volume: Tensor) -> np.ndarray:
    """Third axial slice of a volume `[1, H, W, D]` as a radiologist reads it: anterior on top, right on the left."""
    return volume[0, :, :, 2].numpy()[::-1, ::-1].T


def test_a_glimpse_has_the_slices_of_the_volumes_to_a_step() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, attacked = torch.rand((2, 1, 24, 16, 4), generator=generator)
    label, predicted = torch.randint(0, 9, (2, 1, 24, 16, 4), generator=generator, dtype=torch.uint8)
    case = case_of(clean, label, spacing=(1.0, 2.0, 3.0))
    shown = axial_slice(case, attacked, 2, [("label", 0, label[0]), ("net", 1, predicted[0])])
    planes = shown.unpack()
    assert np.abs(planes[0] / 255 - seen_on(clean)).max() <= 0.5 / 255 + 1e-6
    assert np.abs(planes[1] / 255 - seen_on(attacked)).max() <= 0.5 / 255 + 1e-6
    change = (planes[2].astype(float) - NO_CHANGE) / STEPS * shown.full
    cut = seen_on(attacked - clean).clip(-shown.full, shown.full)
    assert np.abs(change - cut).max() <= 0.5 * shown.full / STEPS + 1e-6
    assert np.array_equal(planes[3], seen_on(label))
    assert np.array_equal(planes[4], seen_on(predicted))
    assert (shown.size, shown.aspect, shown.below) == ((16, 24), 2.0, [0, 1])
    assert shown.captions == ["clean", "adversarial", f"change, ±{255 * shown.full:.3g}/255", "label", "net"]


def test_glimpse_states_its_channel_window_and_visible_changes() -> None:
    label = torch.zeros(1, 16, 16, 4, dtype=torch.uint8)
    case = replace(case_of(torch.full((3, 16, 16, 4), 0.5), label), native_ranges=((0, 9), (-175, 250), (nan, nan)))
    said = []
    for channel, steps in ((1, 15), (1, 17), (2, 17)):
        attacked = case.image.clone()
        attacked[channel] += steps / 255
        shown = axial_slice(case, attacked, 2, [])
        said.append(shown.words)
        assert shown.captions[:2] == [f"clean, channel {channel + 1} of 3", "adversarial"]
    grey = "grey from -175 to 250 in the unit of the file"
    assert said == [grey, f"{grey}; visible change", "grey from 0 to 1; visible change"]


def test_a_change_below_a_grey_level_is_kept() -> None:
    change = torch.zeros(1, 16, 16, 4)
    label = torch.zeros(1, 16, 16, 4, dtype=torch.uint8)
    change[:, :8] = 0.1 / 255
    change[:, 8:] = -0.1 / 255
    case = case_of(torch.full((1, 16, 16, 4), 0.5), label)
    shown = axial_slice(case, case.image + change, 2, [])
    assert shown.full == pytest.approx(0.1 / 255, rel=1e-3)
    assert [*np.unique(shown.unpack()[2])] == [NO_CHANGE - STEPS, NO_CHANGE + STEPS]


def test_slice_is_the_one_of_most_loss() -> None:
    label = np.zeros((4, 4, 5), np.uint8)
    label[:, :, 1:4] = 1
    before = label.copy()
    before[:, :, 1] = 0
    after = before.copy()
    after[:2, :, 3] = 0
    assert slice_of_loss(label, before, after) == 3
    label[:, :, 4] = 1
    label[:2, :, 3] = 0
    assert slice_of_loss(label, label, label) == 1  # nothing lost: the first with most foreground


@pytest.mark.parametrize(("sides", "size"), [((4, 2), (SIDE // 2, SIDE)), ((1, 1), (SIDE, SIDE))])
def test_a_glimpse_of_noise_has_few_bytes_and_pixels(sides: tuple[int, int], size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand((1, sides[0] * SIDE, sides[1] * SIDE, 3), generator=generator)
    label = torch.randint(0, 256, noise.shape, generator=generator, dtype=torch.uint8)
    maps: list[Any] = [("net", 1, label[0])] * 3
    shown = axial_slice(case_of(noise, label, spacing=(1.0, 2.0, 3.0)), 1 - noise, 1, maps)
    assert (shown.size, shown.aspect) == (size, 2.0)
    assert len(shown.model_dump_json()) <= MAX_BYTES


def worst(out: Path) -> dict[str, str]:
    """Each cell's case with the largest white-box drop of foreground DSC, by the rows of a store."""
    drops: dict[str, tuple[float, str]] = {}
    for row in rows(out).values():
        if row["source_model"] == row["target_model"]:
            drop = float(row["dsc_foreground_clean"]) - float(row["dsc_foreground"])
            cell, case = (row[name].strip("'") for name in ("cell_id", "case_key"))
            drops[cell] = max(drops.get(cell, (-math.inf, "")), (drop, case))
    return {cell: case for cell, (_, case) in drops.items()}


def of(cases: int) -> dict[str, Any]:
    """Two models, each attacked by two attacks."""
    attacks = [{"name": "fgsm", "eps": ["4/255", "8/255"]}]
    return small(**BOTH, datasets=[{**CUBE, "cases": cases}], attacks=attacks)


@pytest.mark.integration
def test_each_cell_has_a_glimpse_of_its_worst_case(tmp_path: Path) -> None:
    for cases in (1, 3):
        execute(of(cases), tmp_path)
        assert dict([*paths_of(str(tmp_path))]) == worst(tmp_path)
    slices = [read(str(path), {}) for path in (tmp_path / "glimpses").iterdir()]
    assert len(worst(tmp_path)) == len(slices) == 4
    shown = next(each for each in slices if isinstance(each, Slice) and "a, clean, DSC" in each.captions[4])
    assert (shown.size, shown.below) == ((16, 16), [0, 0, 1, 1])
    assert re.fullmatch(r"label; a, clean, DSC \d+\.\d; a, DSC \d+\.\d; b, DSC \d+\.\d", "; ".join(shown.captions[3:]))


def test_private_and_transferred_units_have_no_glimpse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = small(datasets=[{**CUBE, "cases": 1, "share": False}])
    execute(private, tmp_path / "private")
    assert paths_of(str(tmp_path / "private")) == {}
    (run,) = Store(str(tmp_path / "private")).runs()
    assert run["datasets"]["phantom"]["redistributable"] is False
    execute(small(**BOTH, targets=["b"]), tmp_path / "transfer")
    assert len(paths_of(str(tmp_path / "transfer"))) == 1  # of b on b, not of a on b
    monkeypatch.setattr(Phantom, "redistributable", False)
    execute(SMALL, tmp_path / "licence")
    assert paths_of(str(tmp_path / "licence")) == {}


def test_a_glimpse_that_cannot_be_drawn_or_written_costs_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    execute(SMALL, tmp_path / "as_ever")
    (tmp_path / "unwritable").mkdir()
    (tmp_path / "unwritable" / "glimpses").write_text("in the way")
    said = io.StringIO()
    execute(SMALL, tmp_path / "unwritable", said)
    assert said.getvalue().count("glimpses are not written") == 1
    assert rows(tmp_path / "unwritable") == rows(tmp_path / "as_ever")
    monkeypatch.setattr(glimpser, "axial_slice", lambda *args: 1 / 0)
    with caplog.at_level(logging.WARNING):
        execute(SMALL, tmp_path / "undrawn")
    assert "no glimpse of it could be drawn" in caplog.text
    assert rows(tmp_path / "undrawn") == rows(tmp_path / "as_ever")
    assert paths_of(str(tmp_path / "undrawn")) == {}
