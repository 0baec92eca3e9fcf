"""Figures as files: which are written, which are not and why, and that nothing in them lies on something else."""

import re
import struct
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from reporting.figures import made

from freqbench.reporting.figure_data import Material, shown_rows
from freqbench.reporting.figures import FIGURES, file_stem, write_figures
from freqbench.reporting.figures.style import PAGE, plain
from freqbench.results import CLASS_RECORDS, Store, to_table

Make = Callable[..., dict[str, Any]]
Frame = Callable[..., pd.DataFrame]

SMOKE = ("budget", "transfer", "natural")  # panels, matrices, a listing
OTHERS = ("tradeoff", "distance", "organs", "pairs", "bands", "cost", "seams")
CASES = ("spectrum", "attacks", "robust", "changes", "case")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks, two attacks, a corruption, one case, volumes saved."""
    out = tmp_path_factory.mktemp("out")
    attacks = [{"name": "gn", "std": "8/255"}, {"name": "fgsm", "eps": "8/255"}]
    attacks.append({"name": "corruption", "kind": "blur", "severity": 3})
    datasets = [{"name": "phantom", "shape": tiny.SHAPE, "cases": 1}]
    content = tiny.job(attacks=attacks, datasets=datasets, metrics=["dsc", "ssim"], save_adversarial="nifti")
    tiny.execute(content, out)
    return out


def frames(out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    store = Store(str(out))
    return store.records().to_pandas(), store.class_records().to_pandas()


def test_every_figure_that_the_data_allow_is_written(store: Path, tmp_path: Path) -> None:
    written = write_figures(*frames(store), str(store / "volumes"), str(tmp_path))
    assert set(written.reasons) == {"budget: phantom, a", "budget: phantom, b"}
    assert {path.name.split("-")[0] for path in tmp_path.iterdir()} == set(FIGURES) - {"budget"}
    assert sorted(written.paths) == sorted(str(path) for path in tmp_path.iterdir())
    for path in tmp_path.glob("*.pdf"):
        content = path.read_bytes()
        assert content.startswith(b"%PDF-")
        assert b"/FontFile2" in content, "fonts are embedded, as TrueType"
        assert b"/Type3" not in content
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    width, _ = struct.unpack(">II", (tmp_path / "tradeoff-phantom-a.png").read_bytes()[16:24])
    assert width == round(PAGE * 200)


def test_without_volumes_the_reason_says_how_to_save_them(row: Make, records: Frame, tmp_path: Path) -> None:
    classes = to_table(CLASS_RECORDS, []).to_pandas()
    written = write_figures(records(row(dsc=0.5, dsc_clean=0.9)), classes, None, str(tmp_path))
    for name in CASES:
        (reason,) = [text for of, text in written.reasons.items() if of.startswith(f"{name}: phantom")]
        assert reason == "no volumes are saved: run the job with save_adversarial: nifti"
    assert written.reasons["organs: phantom, unet"] == "no Dice of single classes is stored"
    assert written.reasons["natural: phantom"].startswith("no model was both corrupted and attacked")
    assert [Path(path).name for path in written.paths] == ["pairs-phantom-unet.pdf", "pairs-phantom-unet.png"]


def test_a_damaged_volume_costs_its_own_figure_only(store: Path) -> None:
    (damaged,) = (store / "volumes").glob("gn-a-*/*/clean.nii.gz")
    content = damaged.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    try:
        rows, classes = frames(store)
        drawn = dict(FIGURES["changes"](Material(shown_rows(rows), classes, str(store / "volumes"))))
    finally:
        damaged.write_bytes(content)
    assert "clean.nii.gz" in str(drawn["phantom", "a"])
    assert isinstance(drawn["phantom", "b"], Figure)


def test_nothing_ok_is_told(row: Make, records: Frame, tmp_path: Path) -> None:
    classes = to_table(CLASS_RECORDS, []).to_pandas()
    written = write_figures(records(row(status="failed", error="died")), classes, None, str(tmp_path))
    assert written.paths == ()
    assert set(written.reasons) == set(FIGURES)


UNTRUSTED = ("<script>alert(1)</script>", "../../etc", "$x_{", "_hidden", "a\nb\x1b[31m", "n" * 300, "=1+1")


def test_names_from_data_are_text_and_nothing_else(row: Make, records: Frame, tmp_path: Path) -> None:
    """As model and dataset; `$x_{` alone would be a formula that matplotlib refuses, `_hidden` has no legend."""
    names = UNTRUSTED[1:3]
    values = {"dsc": 0.5, "dsc_clean": 0.9, "energy_low": 0.1, "seam_energy": 1.0}
    rows = [
        row(attack, source=source, target=target, dataset=UNTRUSTED[0], variant="$\\frac{$", **values)
        for source in names
        for target in names
        for attack in ("pgd", "vafa")
    ]
    written = write_figures(records(*rows), to_table(CLASS_RECORDS, []).to_pandas(), None, str(tmp_path))
    kinds = {Path(path).name.split("-")[0] for path in written.paths}
    assert kinds == {"pairs", "bands", "seams", "transfer"}
    assert all(Path(path).parent == tmp_path and Path(path).exists() for path in written.paths)
    assert len(set(written.paths)) == 2 * (3 * len(names) + 1)


@pytest.mark.parametrize("name", UNTRUSTED)
def test_a_file_s_name_is_safe_and_its_own(name: str) -> None:
    stem = file_stem("budget", name)
    assert re.fullmatch(r"budget-[\w.,+=@()-]{1,60}", stem)
    assert stem == file_stem("budget", name) != file_stem("budget", f"{name}?")


def test_plain_text_is_one_line_and_no_formula() -> None:
    assert plain("a\nb") == "a b"
    assert plain("$5") == r"\$5"
    assert plain("x" * 99, 9) == "xxxx…xxxx"


def test_two_names_that_look_alike_are_two_files(row: Make, records: Frame, tmp_path: Path) -> None:
    """`a-b` of `c` and `b-c` of `a`."""
    rows = [row(dataset=dataset, source=model, target=model, dsc=0.5, dsc_clean=0.9) for dataset, model in SPLITS]
    written = write_figures(records(*rows), to_table(CLASS_RECORDS, []).to_pandas(), None, str(tmp_path))
    assert len([path for path in written.paths if "/pairs-a-b-c" in path]) == len(list(tmp_path.glob("pairs-*"))) == 4


SPLITS = (("a-b", "c"), ("a", "b-c"))


@pytest.fixture(scope="module")
def plausible() -> Material:
    records, classes = made.plausible()
    return Material(shown_rows(records), classes, None)


@pytest.mark.parametrize("name", [*SMOKE, *(pytest.param(name, marks=pytest.mark.integration) for name in OTHERS)])
def test_no_text_lies_on_another_or_outside(name: str, plausible: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for numbers within data, and for names that lean, whose boxes are larger than they are."""
    of, figure = next(iter(FIGURES[name](plausible)))
    assert isinstance(figure, Figure), of
    assert figure.get_size_inches()[0] <= PAGE
    drawn: dict[int, Text] = {}
    draw = Text.draw
    monkeypatch.setattr(Text, "draw", lambda self, renderer: (drawn.update({id(self): self}), draw(self, renderer)))
    FigureCanvasAgg(figure).draw()
    inner = {id(text) for axis in figure.axes for text in axis.texts}
    texts = [text for key, text in drawn.items() if key not in inner and text.get_text() and text.get_visible()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_rotation() % 90 == 0]
    assert len(boxes) > 5
    for text, box in boxes:
        assert min(box.x0, box.y0) >= -1, text
        assert box.x1 <= figure.bbox.x1 + 1, text
        assert box.y1 <= figure.bbox.y1 + 1, text
    for (first, a), (second, b) in combinations(boxes, 2):
        width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        overlap = width * height if min(width, height) > 0 else 0
        assert overlap < 0.1 * min(a.width * a.height, b.width * b.height), (first, second)
