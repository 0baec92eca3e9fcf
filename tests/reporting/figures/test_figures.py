"""Figures as files: which are written, what they draw and name, corruptions beside attacks among them."""

import re
import struct
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny_job
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from reporting.handmade import classes, records, row, shown

from freqbench.core.errors import UserError
from freqbench.engine.saved_volumes import write
from freqbench.reporting import figures
from freqbench.reporting.figure_data import Material, shown_rows
from freqbench.reporting.figures import FIGURES, cases, file_stem, maps, write_figures
from freqbench.reporting.figures.cases import read_volumes
from freqbench.reporting.figures.style import PAGE, plain
from freqbench.reporting.views import natural
from freqbench.reporting.views.natural import NaturalComparison
from freqbench.results import Store
from freqbench.results.volumes import whole

SMOKE = ("distance", "transfer", "natural")  # panels, matrices, a listing
MISSING = {
    "smallest": "no attack found a smallest change",
    "factors": "no attack was run with two of its parameters changed one at a time",
    "ejection": "no patient has a left ventricle in two cases",
}
OF_DATASET = ("transfer", "natural", "worst", "ejection")
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


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return lambda *names: monkeypatch.setattr(figures, "FIGURES", {name: FIGURES[name] for name in names})


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_that_the_data_allow_is_drawn(name: str, material: Material) -> None:
    figures = dict(FIGURES[name](material))
    if name in MISSING:
        assert set(figures.values()) == {MISSING[name]}
    else:
        assert all(isinstance(figure, Figure) for figure in figures.values()), figures
    assert set(figures) == ({("phantom",)} if name in OF_DATASET else {("phantom", "a"), ("phantom", "b")})


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


@pytest.mark.parametrize(
    "names", [("tradeoff", "case"), pytest.param(tuple(FIGURES), marks=pytest.mark.slow)], ids=["two", "all"]
)
def test_figures_are_vectors_with_embedded_fonts(
    names: tuple[str, ...], only: Callable[..., None], material: Material, tmp_path: Path
) -> None:
    only(*names)
    rows = material.rows[material.rows["target_model"] == "a"] if len(names) == 2 else material.rows
    written = write_figures(rows.assign(budget=rows["budget"] / 255), material.classes, material.root, str(tmp_path))
    assert {path.name.split("-")[0] for path in tmp_path.iterdir()} == set(names) - set(MISSING)
    assert sorted(written.paths) == sorted(str(path) for path in tmp_path.iterdir())
    for path in tmp_path.glob("*.pdf"):
        content = path.read_bytes()
        assert content.startswith(b"%PDF-")
        assert b"/FontFile2" in content, "fonts are embedded, as TrueType"
        assert b"/Type3" not in content
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    width, _ = struct.unpack(">II", (tmp_path / "tradeoff-phantom-a.png").read_bytes()[16:24])
    assert width == round(PAGE * 200)


def test_the_trade_off_tells_both_scopes_of_an_attack() -> None:
    """Scopes stand in full in the middle of long names, and beside a picture of the usual height."""
    window = {"renormalize": False, "loss": "dice", "scope": "window", "step_rule": "halving"}
    forms = (window, window | {"loss": "switch", "scope": "joint", "step_rule": "cosine"})
    rows = [row("vafa_opt", form, l2_body=5.0, dsc_clean=0.9, dsc=0.3) for form in forms]
    figure = dict(FIGURES["tradeoff"](Material(shown_rows(records(*rows)), classes(), None)))["phantom", "unet"]
    assert isinstance(figure, Figure)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sum("scope=window" in name for name in names) == 1
    assert len([name for name in names if name[0].isdigit()]) == 2
    FigureCanvasAgg(figure).draw()
    assert figure.axes[0].get_position().height * figure.get_figheight() > 1.2


def test_a_figure_that_cannot_be_drawn_has_a_reason(only: Callable[..., None], tmp_path: Path) -> None:
    only("distance", "natural", "case")
    written = write_figures(records(row(dsc=0.5, dsc_clean=0.9, l2_body=3.0)), classes(), None, str(tmp_path))
    assert written.reasons["case: phantom, unet"] == "no volumes are saved: run the job with save_adversarial: nifti"
    assert written.reasons["natural: phantom"].startswith("no model was both corrupted and attacked")
    assert [Path(path).name for path in written.paths] == ["distance-phantom-unet.pdf", "distance-phantom-unet.png"]
    failed = write_figures(records(row(status="failed", error="died")), classes(), None, str(tmp_path))
    assert (failed.paths, set(failed.reasons)) == ((), {"distance", "natural", "case"})


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


def test_names_from_data_are_text_and_nothing_else(only: Callable[..., None], tmp_path: Path) -> None:
    """Names of model and dataset; `$x_{` alone would be a formula that matplotlib refuses."""
    values = {"dsc": 0.5, "dsc_clean": 0.9, "l2_body": 3.0, "variant": "$\\frac{$", "dataset": UNTRUSTED[0]}
    pairs = product(UNTRUSTED[1:3], repeat=2)
    only("distance", "transfer")
    made = records(*(row(source=source, target=target, **values) for source, target in pairs))
    written = write_figures(made, classes(), None, str(tmp_path))
    assert [Path(path).name.split("-")[0] for path in written.paths] == 4 * ["distance"] + 2 * ["transfer"]
    assert {Path(path) for path in written.paths} == {*tmp_path.iterdir()}


@pytest.mark.parametrize("name", UNTRUSTED)
def test_a_file_s_name_is_safe_and_its_own(name: str) -> None:
    stem = file_stem("worst", name)
    assert re.fullmatch(r"worst-[\w.,+=@()-]{1,60}", stem)
    assert stem == file_stem("worst", name) != file_stem("worst", f"{name}?")


def test_plain_text_is_one_line_and_no_formula() -> None:
    assert (plain("a\nb"), plain("$5"), plain("x" * 99, 9)) == ("a b", r"\$5", "xxxx…xxxx")


@pytest.mark.integration
def test_two_names_that_look_alike_are_two_files(only: Callable[..., None], tmp_path: Path) -> None:
    only("distance")
    splits = (("a-b", "c"), ("a", "b-c"))
    values = {"dsc": 0.5, "dsc_clean": 0.9, "l2_body": 3.0}
    rows = [row(dataset=dataset, source=model, target=model, **values) for dataset, model in splits]
    written = write_figures(records(*rows), classes(), None, str(tmp_path))
    assert len([path for path in written.paths if "/distance-a-b-c" in path]) == len([*tmp_path.iterdir()]) == 4


def test_intervals_of_dsc_end_between_0_and_100() -> None:
    """Student's t of three patients that differ much goes far beyond."""
    scores = product(("unet", "unetr"), enumerate((0.1, 0.9, 0.95)))
    made = records(*(row(source=net, target=net, case=at, dsc=dsc, dsc_clean=0.9) for net, (at, dsc) in scores))
    ((_, figure),) = FIGURES["worst"](Material(shown_rows(made), classes(), None))
    assert isinstance(figure, Figure)
    bars = [tuple(segment[:, 1]) for bars in figure.axes[0].collections for segment in bars.get_segments()]
    assert all(0 < low < 65 < high < 100 for low, high in bars)
    assert len(bars) == 2


@pytest.fixture(scope="module")
def plausible() -> Material:
    """Three models, five threat models, twelve attacks, eight classes, six cases, as a whole report may have them."""
    rng = np.random.default_rng(0)
    budgets = {"pgd": (2 / 255, 4 / 255, 8 / 255), "gn": (4 / 255, 8 / 255), "vafa": (10.0, 20.0, 30.0), "dfb": (None,)}
    budgets["corruption"] = (1.0, 3.0, 5.0)
    params = {"vafa": {"band": "band"}, "corruption": {"kind": "gaussian_noise", "scope": "volume"}}
    models = ("unet", "unetr", "swinunetr-adversarially-trained")
    rows = []
    for attack, source, target, case in product(budgets, models, models, range(6)):
        for place, budget in enumerate(budgets[attack]):
            drop = rng.uniform(0.05, 0.15) * (place + 1) * (1 if source == target else 0.3)
            made = row(
                attack,
                params.get(attack),
                **{"source": source, "target": target, "case": case, "budget": budget},
                **{"dsc": 0.9 - drop, "dsc_clean": 0.9, "ssim_body": 1 - drop / 3, "lpips_body": drop / 4},
                **{"dsc_foreground": 0.85 - 1.2 * drop, "dsc_foreground_clean": 0.85},
                l2_body=90 * drop,
            )
            rows.append(made)
    organs = {f"a long organ {index}": (0.7, 0.9) for index in range(9)}
    return Material(shown_rows(records(*rows)), classes(*((made, organs) for made in rows)), None)


@pytest.mark.parametrize("name", [*SMOKE, pytest.param("tradeoff", marks=pytest.mark.slow)])
def test_no_text_lies_on_another_or_outside(name: str, plausible: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers within data are left out, and names that lean, whose boxes are larger than they are."""
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


MODELS = ("a", "b")
INTERVALS = ("under corruptions\ninterval", "under attacks\ninterval")


def corrupted(model: str, case: int, drop: float, kind: str = "blur", severity: float = 1.0, **more: Any) -> Any:
    values = {"source": model, "target": model, "dsc": 0.9 - drop / 100, "dsc_clean": 0.9, "budget": severity} | more
    return row("corruption", {"kind": kind, "scope": "volume"}, case=case, **values)


def attacked(model: str, case: int, drop: float, attack: str = "pgd", **more: Any) -> Any:
    values = {"source": model, "target": model, "dsc": 0.9 - drop / 100, "dsc_clean": 0.9} | more
    return row(attack, case=case, **values)


def attacks() -> list[Any]:
    """Rows of two attacks, each worse on one of two cases."""
    drops = {("pgd", 0): 40, ("pgd", 1): 10, ("vafa", 0): 20, ("vafa", 1): 30}
    return [attacked(model, case, drop, attack) for model in MODELS for (attack, case), drop in drops.items()]


def compared(*rows: Any) -> NaturalComparison:
    comparison = natural.compare_models(shown_rows(records(*rows)))
    assert isinstance(comparison, NaturalComparison), comparison
    return comparison


def drops(table: pd.DataFrame, *by: str) -> dict[Any, float]:
    return {tuple(row[name] for name in by): row["mean"] for row in table.to_dict("records")}


def both_kinds() -> list[Any]:
    """Model a loses 1, 2 by blur, 3, 4 by motion at severities 1 and 5 on case 0, twice that on case 1; b 10 more."""
    return [
        corrupted(model, case, (1 + case) * (1 + i) + 10 * (model == "b"), kind, severity)
        for model in MODELS
        for case in (0, 1)
        for i, (kind, severity) in enumerate([("blur", 1.0), ("blur", 5.0), ("motion", 1.0), ("motion", 5.0)])
    ]


def test_drops_are_means_over_kinds_and_over_severities() -> None:
    comparison = compared(*both_kinds(), *attacks())
    by_severity = {("a", 1): 3, ("a", 5): 4.5, ("b", 1): 13, ("b", 5): 14.5}
    assert drops(comparison.by_severity, "target_model", "budget") == pytest.approx(by_severity)
    by_row = drops(comparison.by_row, "target_model", "row")
    assert {key: by_row[key] for key in (("a", "blur"), ("a", "motion"), ("b", "blur"))} == pytest.approx(
        {("a", "blur"): 2.25, ("a", "motion"): 5.25, ("b", "blur"): 12.25}
    )
    assert by_row["a", "pgd eps=8/255"] == pytest.approx(25)
    expected = [("natural", "blur"), ("natural", "motion"), ("attack", "vafa q_max=20"), ("attack", "pgd eps=8/255")]
    assert (list(comparison.rows), comparison.models, comparison.n) == (expected, MODELS, 2)


def test_worst_attack_is_each_cases_own() -> None:
    remaining = compared(*both_kinds(), *attacks()).left
    left = {("a", "natural"): 90 - 3.75, ("b", "natural"): 90 - 13.75, ("a", "attack"): 55, ("b", "attack"): 55}
    assert drops(remaining, "target_model", "group") == pytest.approx(left)
    assert remaining["low"].isna().all()  # of two patients


def test_corrupted_volume_serves_models_without_their_own() -> None:
    """Corrupted once for a, scored on both; b's own row is taken where there is one. Attacks count white-box only."""
    rows = [corrupted("a", 0, 2), corrupted("a", 0, 6, target="b"), attacked("a", 0, 50), attacked("b", 0, 50)]
    transferred = attacked("a", 0, 80, target="b")
    comparison = compared(*rows, transferred)
    assert drops(comparison.by_row, "target_model", "row")["b", "blur"] == pytest.approx(6)
    assert drops(comparison.left, "target_model", "group")["b", "attack"] == pytest.approx(40)
    comparison = compared(*rows, transferred, corrupted("b", 0, 7))
    assert drops(comparison.by_row, "target_model", "row")["b", "blur"] == pytest.approx(7)


def test_settings_not_shared_by_all_models_are_left_out() -> None:
    further = [
        corrupted("a", 0, 50, "spikes"),
        corrupted("a", 1, 50, "spikes"),
        corrupted("a", 2, 50),
        attacked("a", 0, 70, "gn"),
        *(attacked(model, 2, 60, attack) for model in MODELS for attack in ("pgd", "vafa")),
    ]
    plain, more = (compared(*both_kinds(), *attacks(), *rows) for rows in ([], further))
    assert (more.rows, more.n) == (plain.rows, 2)
    pd.testing.assert_frame_equal(more.left, plain.left)
    pd.testing.assert_frame_equal(more.by_severity, plain.by_severity)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([corrupted("a", 0, 5)], "no model was both corrupted and attacked"),
        ([corrupted("a", 0, 5), attacked("b", 0, 5)], "no model was both corrupted and attacked"),
        ([corrupted("a", 0, 5), attacked("a", 1, 5)], "no case has the same corruptions and the same attacks"),
        ([corrupted("a", 0, 5, dsc=None), attacked("a", 0, 5)], "no model was both corrupted and attacked"),
    ],
)
def test_rows_that_cannot_be_compared_have_a_reason(rows: list[Any], reason: str) -> None:
    (section,) = natural.natural(shown(*rows))
    assert section.text.startswith(reason.capitalize())


def test_figure_has_point_model_and_line_kind_or_attack() -> None:
    rows = shown_rows(records(*both_kinds(), *attacks()))
    (figure,) = maps.natural(Material(rows, pd.DataFrame(), None), rows, "phantom")
    severities, against, listing = figure.axes
    drops = [list(each[0].get_ydata()) for each in severities.containers]
    assert drops == [pytest.approx([3, 4.5]), pytest.approx([13, 14.5])]
    points = [[*each[0].get_xdata(), *each[0].get_ydata()] for each in against.containers]
    assert points == [pytest.approx([86.25, 55]), pytest.approx([76.25, 55])]
    texts = [label.get_text() for label in listing.get_yticklabels()]
    assert texts == ["corruptions", "blur", "motion", "attacks", "vafa q_max=20", "pgd eps=8/255"]
    blur = []
    for drawn, *_ in listing.containers:
        blur.append(drawn.get_xdata()[np.asarray(drawn.get_ydata(), float).round().tolist().index(texts.index("blur"))])
    assert blur == pytest.approx([2.25, 12.25])


def test_tables_say_what_the_figure_shows() -> None:
    """The papers' DSC, with the background, is 5 points above that of the foreground."""
    rows = [row | {name: row[name] + 0.05 for name in ("dsc", "dsc_clean")} for row in (*both_kinds(), *attacks())]
    left, by_row = natural.natural(shown(*rows))
    first = left.table.iloc[0].to_dict()
    assert first["model"] == "a"
    assert {name: first[name] for name in first if name not in ("model", *INTERVALS)} == pytest.approx(
        {
            "dsc_foreground_clean": 90,
            "under corruptions\nforeground DSC": 86.25,
            "under attacks\nforeground DSC": 55,
            "drop at severity\n1": 3,
            "drop at severity\n5": 4.5,
            "DSC\nclean": 95,
            "DSC\ncorruptions": 91.25,
            "DSC\nattacks": 60,
        }
    )
    assert first["under corruptions\ninterval"] == ""  # of two patients
    assert list(by_row.table["what"]) == ["blur", "motion", "vafa q_max=20", "pgd eps=8/255"]
    assert list(by_row.table["b\ndrop"]) == pytest.approx([12.25, 15.25, 25, 25])
