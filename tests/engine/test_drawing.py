"""Glimpses: what they show, which case of a cell they show, and that no row hangs on them."""

import io
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.cases import case_of
from PIL import Image
from tiny_job import execute, job, rows, small
from torch import Tensor

from freqbench.data.loaders.phantom import Phantom
from freqbench.engine import drawing
from freqbench.engine.drawing import CAPTION, GAP, PANEL, Prediction, draw, slice_of_loss
from freqbench.ops.colors import class_color
from freqbench.results import Store
from freqbench.results.glimpses import MAX_BYTES, listed

SMALL = small(metrics=["dsc"], datasets=[{"name": "phantom", "shape": [16, 16, 16], "cases": 1}])
BOTH = {"models": job()["models"], "metrics": ["dsc"]}


def pixels(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB")).astype(int)


def middle(image: bytes, panel: int, across: float, down: float) -> np.ndarray:
    """The colour at a place of a panel of square slices, in shares of its width and height."""
    left, top = panel % 3 * (PANEL + GAP), panel // 3 * (PANEL + CAPTION + GAP) + CAPTION
    return pixels(image)[top + int(down * PANEL), left + int(across * PANEL)]


def drawn(change: Tensor, label: Tensor) -> bytes:
    case = case_of(torch.full((1, 16, 16, 4), 0.5), label)
    adversarial = case.image + change
    seen = Prediction(name="net", dsc=0.5, labels=label[0], volume=adversarial)
    return draw(case, adversarial, 2, [seen, seen])


def test_a_change_is_orange_below_0_and_purple_above_and_classes_have_their_colours() -> None:
    """The first axis is the patient's right to left, which a radiologist sees from the left on."""
    change, label = torch.zeros(1, 16, 16, 4), torch.zeros(1, 16, 16, 4, dtype=torch.uint8)
    change[:, :8], change[:, 8:], label[:, :, 8:] = 0.1, -0.1, 1
    image = drawn(change, label)
    purple, orange = (94, 60, 153), (230, 97, 1)
    assert np.abs(middle(image, 2, 0.75, 0.5) - purple).max() < 25
    assert np.abs(middle(image, 2, 0.25, 0.5) - orange).max() < 25
    assert np.abs(middle(image, 0, 0.5, 0.5) - 128).max() < 8
    assert np.abs(middle(image, 1, 0.75, 0.5) - 153).max() < 8
    color = np.array(list(bytes.fromhex(class_color(1)[1:])))
    assert np.abs(middle(image, 3, 0.5, 0.25) - (0.6 * color + 0.4 * 128)).max() < 25  # anterior is on top
    assert np.abs(middle(image, 3, 0.5, 0.75) - 128).max() < 8


def test_the_slice_is_the_one_in_which_most_was_lost_and_not_where_the_model_was_wrong_before() -> None:
    label = np.zeros((4, 4, 5), np.uint8)
    label[:, :, 1:4] = 1
    before, after = label.copy(), label.copy()
    before[:, :, 1] = after[:, :, 1] = 0
    after[:2, :, 3] = 0
    assert slice_of_loss(label, before, after) == 3
    label[:, :, 4], label[:2, :, 3] = 1, 0
    assert slice_of_loss(label, label, label) == 1  # nothing lost: the first with most foreground


def test_a_picture_of_noise_is_small_enough_too(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand((1, 160, 160, 3), generator=generator)
    label = torch.randint(0, 9, (1, 160, 160, 3), generator=generator, dtype=torch.uint8)
    case = case_of(noise, label)
    seen = Prediction(name="a long name of a network " * 3, dsc=math.nan, labels=label[0], volume=1 - noise)
    assert 30_000 < len(draw(case, 1 - noise, 1, [seen, seen])) <= MAX_BYTES
    monkeypatch.setattr(drawing, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="at most 100 bytes"):
        draw(case, 1 - noise, 1, [seen, seen])


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
    return small(**BOTH, datasets=[{"name": "phantom", "shape": [16, 16, 16], "cases": cases}], attacks=attacks)


@pytest.mark.integration
def test_each_cell_has_a_glimpse_of_its_worst_case_after_a_resumed_run_too(tmp_path: Path) -> None:
    for cases in (1, 3):
        execute(of(cases), tmp_path)
        assert dict([*listed(str(tmp_path))]) == worst(tmp_path)
    images = [path.read_bytes() for path in (tmp_path / "glimpses").iterdir()]
    assert len(worst(tmp_path)) == len(images) == 4
    assert max(map(len, images)) <= MAX_BYTES
    assert pixels(images[0]).shape[1] == 3 * PANEL + 2 * GAP


def test_private_datasets_and_units_without_white_box_have_no_glimpse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = small(datasets=[{"name": "phantom", "shape": [16, 16, 16], "cases": 1, "share": False}])
    execute(private, tmp_path / "private")
    assert listed(str(tmp_path / "private")) == {}
    (run,) = Store(str(tmp_path / "private")).runs()
    assert run["datasets"]["phantom"]["redistributable"] is False
    execute(small(**BOTH, targets=["b"]), tmp_path / "transfer")
    assert len(listed(str(tmp_path / "transfer"))) == 1  # of b on b, not of a on b
    monkeypatch.setattr(Phantom, "redistributable", False)
    execute(SMALL, tmp_path / "licence")
    assert listed(str(tmp_path / "licence")) == {}


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
    monkeypatch.setattr(drawing, "draw", lambda *args: 1 / 0)
    with caplog.at_level(logging.WARNING):
        execute(SMALL, tmp_path / "undrawn")
    assert "no glimpse of it could be drawn" in caplog.text
    assert rows(tmp_path / "undrawn") == rows(tmp_path / "as_ever")
    assert listed(str(tmp_path / "undrawn")) == {}
