"""Figures as files: which are written, what they draw and name."""

import re
import struct
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
import tiny_job
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from reporting.handmade import classes, records, row

from freqbench.core.errors import UserError
from freqbench.engine.saved_volumes import write
from freqbench.reporting.figure_data import Material, shown_rows
from freqbench.reporting.figures import FIGURES, cases, file_stem, write_figures
from freqbench.reporting.figures.cases import read_volumes
from freqbench.reporting.figures.style import PAGE, plain
from freqbench.results import Store
from freqbench.results.volumes import whole

NO_HEART = "no patient has a left ventricle in two cases"
UNTRUSTED = ("<script>alert(1)</script>", "../../etc", "$x_{", "_hidden", "a\nb\x1b[31m", "n" * 300, "=1+1")


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Results of two networks, an attack, a corruption, one case, volumes saved."""
    out = tmp_path_factory.mktemp("out")
    attacks = [{"name": "fgsm", "eps": "8/255"}, {"name": "corruption", "kind": "blur", "severity": 3}]
    datasets = [{"name": "phantom", "shape": tiny_job.SHAPE, "cases": 1}]
    content = tiny_job.job(attacks=attacks, datasets=datasets, metrics=["dsc", "ssim"], save_adversarial="nifti")
    tiny_job.execute(content, out)
    stored = Store(str(out))
    return Material(shown_rows(stored.records().to_pandas()), stored.class_records().to_pandas(), str(out / "volumes"))


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_that_the_data_allow_is_drawn(name: str, material: Material) -> None:
    drawn = dict(FIGURES[name](material))
    if name == "ejection":
        assert drawn == {("phantom",): NO_HEART}
    else:
        assert all(isinstance(figure, Figure) for figure in drawn.values()), drawn
        assert set(drawn) == {("phantom", "a"), ("phantom", "b")}


@pytest.mark.integration
def test_the_case_in_full_is_that_of_the_largest_drop(material: Material) -> None:
    for label in material.rows["label"].unique():
        rows = material.rows.assign(drop=(material.rows["label"] == label).astype(float))
        figure = dict(FIGURES["case"](replace(material, rows=rows)))["phantom", "a"]
        assert isinstance(figure, Figure)
        assert figure.get_suptitle().startswith(f"phantom: {label} on a, case ")


@pytest.mark.integration
def test_a_reference_that_is_the_clean_prediction_is_shown_once(material: Material) -> None:
    folder = next(path for (cell, _), path in material.folders.items() if f"-a-{cell}/" in path)
    saved = read_volumes(str(material.root), folder)
    clean = saved.predictions["a"][0]
    for label, first in ((1 - clean.clip(0, 1), "label"), (clean, "prediction, clean")):
        assert cases.draw_case(replace(saved, label=label), "a", "title", {}).axes[3].get_title() == first


def test_figures_are_vectors_with_embedded_fonts(material: Material, tmp_path: Path) -> None:
    rows = material.rows[material.rows["target_model"] == "a"]
    written = write_figures(rows.assign(budget=rows["budget"] / 255), material.classes, material.root, str(tmp_path))
    assert {path.name.split("-")[0] for path in tmp_path.iterdir()} == {"distance", "case"}
    assert sorted(written.paths) == sorted(str(path) for path in tmp_path.iterdir())
    for path in tmp_path.glob("*.pdf"):
        content = path.read_bytes()
        assert content.startswith(b"%PDF-")
        assert b"/FontFile2" in content, "fonts are embedded, as TrueType"
        assert b"/Type3" not in content
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    width, _ = struct.unpack(">II", (tmp_path / "case-phantom-a.png").read_bytes()[16:24])
    assert width == round(PAGE * 200)


def test_a_figure_that_cannot_be_drawn_has_a_reason(tmp_path: Path) -> None:
    written = write_figures(records(row(dsc=0.5, dsc_clean=0.9, l2_body=3.0)), classes(), None, str(tmp_path))
    assert written.reasons == {
        "case: phantom, unet": "no volumes are saved: run the job with save_adversarial: nifti",
        "ejection: phantom": NO_HEART,
    }
    assert [Path(path).name for path in written.paths] == ["distance-phantom-unet.pdf", "distance-phantom-unet.png"]
    failed = write_figures(records(row(status="failed", error="died")), classes(), None, str(tmp_path))
    assert (failed.paths, set(failed.reasons)) == ((), set(FIGURES))


def test_a_damaged_volume_costs_its_own_figure_only(material: Material) -> None:
    (damaged,) = Path(str(material.root)).glob("fgsm-a-*/*/clean.nii.gz")
    content = damaged.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    try:
        drawn = dict(FIGURES["case"](replace(material, rows=material.rows[material.rows["attack"] == "fgsm"])))
    finally:
        damaged.write_bytes(content)
    assert "clean.nii.gz" in str(drawn["phantom", "a"])
    assert isinstance(drawn["phantom", "b"], Figure)


def test_names_from_data_are_text_and_nothing_else(tmp_path: Path) -> None:
    """Names of model and dataset; `$x_{` alone would be a formula that matplotlib refuses."""
    values = {"dsc": 0.5, "dsc_clean": 0.9, "l2_body": 3.0, "variant": "$\\frac{$", "dataset": UNTRUSTED[0]}
    pairs = product(UNTRUSTED[1:3], repeat=2)
    made = records(*(row(source=source, target=target, **values) for source, target in pairs))
    written = write_figures(made, classes(), None, str(tmp_path))
    assert [Path(path).name.split("-")[0] for path in written.paths] == 4 * ["distance"]
    assert {Path(path) for path in written.paths} == {*tmp_path.iterdir()}


@pytest.mark.parametrize("name", UNTRUSTED)
def test_a_file_s_name_is_safe_and_its_own(name: str) -> None:
    stem = file_stem("case", name)
    assert re.fullmatch(r"case-[\w.,+=@()-]{1,60}", stem)
    assert stem == file_stem("case", name) != file_stem("case", f"{name}?")


def test_plain_text_is_one_line_and_no_formula() -> None:
    assert (plain("a\nb"), plain("$5"), plain("x" * 99, 9)) == ("a b", r"\$5", "xxxx…xxxx")


@pytest.mark.integration
def test_two_names_that_look_alike_are_two_files(tmp_path: Path) -> None:
    splits = (("a-b", "c"), ("a", "b-c"))
    values = {"dsc": 0.5, "dsc_clean": 0.9, "l2_body": 3.0}
    rows = [row(dataset=dataset, source=model, target=model, **values) for dataset, model in splits]
    written = write_figures(records(*rows), classes(), None, str(tmp_path))
    assert len([path for path in written.paths if "/distance-a-b-c" in path]) == len([*tmp_path.iterdir()]) == 4


@pytest.fixture
def plausible() -> Material:
    """Twelve attacks of five threat models on six cases, as a whole report may have them."""
    rng = np.random.default_rng(0)
    budgets = {"pgd": (2 / 255, 4 / 255, 8 / 255), "gn": (4 / 255, 8 / 255), "vafa": (10.0, 20.0, 30.0), "dfb": (None,)}
    budgets["corruption"] = (1.0, 3.0, 5.0)
    params = {"vafa": {"band": "band"}, "corruption": {"kind": "gaussian_noise", "scope": "volume"}}
    rows = []
    for attack, case in product(budgets, range(6)):
        for place, budget in enumerate(budgets[attack], 1):
            drop = place * rng.uniform(0.05, 0.15)
            values = {"case": case, "budget": budget, "dsc": 0.9 - drop, "dsc_clean": 0.9, "l2_body": 90 * drop}
            model = "swinunetr-adversarially-trained"
            rows.append(row(attack, params.get(attack), source=model, target=model, **values))
    return Material(shown_rows(records(*rows)), classes(), None)


def test_no_text_lies_on_another_or_outside(plausible: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    of, figure = next(iter(FIGURES["distance"](plausible)))
    assert isinstance(figure, Figure), of
    assert figure.get_size_inches()[0] <= PAGE
    drawn: dict[int, Text] = {}
    draw = Text.draw
    monkeypatch.setattr(Text, "draw", lambda self, renderer: (drawn.update({id(self): self}), draw(self, renderer)))
    FigureCanvasAgg(figure).draw()
    texts = [text for text in drawn.values() if text.get_text() and text.get_visible()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    assert len(boxes) > 5
    for text, box in boxes:
        assert min(box.x0, box.y0) >= -1, text
        assert box.x1 <= figure.bbox.x1 + 1, text
        assert box.y1 <= figure.bbox.y1 + 1, text
    for (first, a), (second, b) in combinations(boxes, 2):
        width = min(a.x1, b.x1) - max(a.x0, b.x0)
        height = min(a.y1, b.y1) - max(a.y0, b.y0)
        overlap = width * height if min(width, height) > 0 else 0
        assert overlap < 0.1 * min(a.width * a.height, b.width * b.height), (first, second)


SHAPE = (3, 4, 5)
# The first axis points to superior (2 mm), the second to the left (3 mm), the third to posterior (4 mm).
AFFINE = np.array([[0, -3, 0, 9], [0, 0, -4, 8], [2, 0, 0, 7], [0, 0, 0, 1]], float)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One case of one cell below `tmp_path / "volumes"`: two channels, the second changed more, at one voxel."""
    place = tmp_path / "volumes" / "pgd-u-net-00aa" / "case-1-00bb"
    clean = torch.zeros(2, *SHAPE)
    clean[1, 2, 0, 0] = 0.5  # most superior, most right, most anterior
    adversarial = clean.clone()
    adversarial[0, 0, 0, 0] = 0.1
    adversarial[1, 0, 3, 4] = 0.75
    label = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    label[0, 2, 0, 0] = 2
    write(str(place / "clean.nii.gz"), clean, AFFINE)
    write(str(place / "adversarial.nii.gz"), adversarial, AFFINE)
    write(str(place / "label.nii.gz"), label, AFFINE)
    for name in ("prediction_clean-u-net", "prediction_adversarial-u-net", "prediction_adversarial-lonely"):
        write(str(place / f"{name}.nii.gz"), label[0], AFFINE)
    other = torch.zeros(2, 2, 2, dtype=torch.uint8)
    for name in ("prediction_clean-coarse", "prediction_adversarial-coarse"):
        write(str(place / f"{name}.nii.gz"), other, AFFINE)
    (place / "attack.json").write_text("{}")
    return place


def test_picture_marks_sides_of_patient_and_size_of_voxel(folder: Path) -> None:
    saved = read_volumes(str(folder.parents[1]), str(folder))
    figure = cases.draw_case(replace(saved, predictions={"net": (saved.label, saved.label)}), "net", "a case", {})
    sides = ["".join(text.get_text() for text in axis.texts[:3]) for axis in figure.axes]
    columns = len(sides) // 3
    assert sides == [*columns * ["RLA"], *columns * ["RLS"], *columns * ["APS"]]
    assert "voxels of 3 x 4 x 2 mm, grey from 0 to 1\n" in figure.get_suptitle()  # an old volume's window is not known
    (folder / "attack.json").write_text('{"native_ranges": [null, [-175, 250]]}')
    saved = read_volumes(str(folder.parents[1]), str(folder))
    assert saved.scale.endswith("grey from -175 to 250 in the unit of the file")  # of the channel that changed more
    left_posterior = np.argwhere(figure.axes[1].images[0].get_array() == 0.75)
    assert left_posterior.tolist() == [[4, 3]]  # the lowest row, the last column


@pytest.mark.parametrize(("steps", "words"), [(17, "adversarial\nvisible change"), (15, "adversarial")])
def test_a_change_of_more_than_16_grey_levels_is_called_visible(steps: int, words: str, folder: Path) -> None:
    saved = read_volumes(str(folder.parents[1]), str(folder))
    changed = replace(saved, adversarial=saved.clean + np.float32(steps / 255), predictions={"a": (saved.label,) * 2})
    assert cases.draw_case(changed, "a", "title", {}).axes[1].get_title() == words


@pytest.mark.integration
def test_a_figure_of_anatomy_states_the_window_of_its_dataset(material: Material) -> None:
    figure = next(iter(FIGURES["case"](material)))[1]
    assert isinstance(figure, Figure)
    assert "mm, grey from -175 to 250 in the unit of the file" in figure.get_suptitle()


def test_folders_are_known_by_cell_and_case_unless_torn(folder: Path) -> None:
    root = folder.parents[1]
    torn = root / "pgd-u-net-00cc" / "case-1-00bb"
    torn.mkdir(parents=True)
    (torn / "clean.nii.gz").touch()
    assert whole(str(root)) == {("00aa", "00bb"): "pgd-u-net-00aa/case-1-00bb"}
    assert whole(str(root / "nowhere")) == {}


def test_axes_are_turned_with_their_spacing(folder: Path) -> None:
    saved = read_volumes(str(folder.parents[1]), str(folder))
    assert saved.clean.shape == (4, 5, 3)
    assert saved.spacing == (3, 4, 2)
    assert saved.clean[3, 4, 2] == 0.5  # right, anterior and superior are the last indices
    assert saved.label[3, 4, 2] == 2
    assert saved.change[0, 0, 0] == 0.75  # of two channels the one that was changed more
    assert np.count_nonzero(saved.change) == 1


def test_unpaired_predictions_are_left_out(folder: Path) -> None:
    assert set(read_volumes(str(folder.parents[1]), str(folder)).predictions) == {"u-net"}


def test_volumes_of_different_shapes_are_refused(folder: Path) -> None:
    write(str(folder / "label.nii.gz"), torch.zeros(1, 2, 2, 2, dtype=torch.uint8), AFFINE)
    with pytest.raises(UserError, match="expected clean, adversarial and label on one grid"):
        read_volumes(str(folder.parents[1]), str(folder))


def test_a_link_out_of_the_store_is_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    link = folder.parent / "case-2-00dd"
    link.symlink_to(outside)
    with pytest.raises(UserError, match="got a link that leads out of it"):
        read_volumes(str(folder.parents[1]), str(link))
