"""The viewer of volumes in a real browser: a page opened from disk, without a network, under a strict policy."""

import base64
import copy
import gzip
import hashlib
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from matplotlib import image as pictures
from scipy.ndimage import binary_erosion
from viewer_page import DIST, VIEWER, rows_of, write_page

from freqbench.reporting.colors import class_color
from freqbench.reporting.page import build_page, data_of, viewer_script
from freqbench.reporting.page.manifest import write_volumes
from freqbench.results import Store

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra `dev`")

Open = Callable[..., Any]
PICTURE = "canvas:visible"  # one of two, but side by side


def test_bundle_is_of_these_sources_with_licences() -> None:
    """Otherwise: `npm ci && npm run build` in the folder of the viewer."""
    paths = ["build.js", "package-lock.json", "package.json", *(f"src/{path.name}" for path in VIEWER.glob("src/*"))]
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path}\n".encode() + (VIEWER / path).read_bytes() + b"\n")
    bundle = (DIST / "viewer.js").read_text()
    assert bundle.startswith(f"/* freqbench viewer, sources {digest.hexdigest()};")
    assert not re.search(r"</script|<script|<!--", bundle, re.IGNORECASE)
    licences = (DIST / "viewer.LICENSES.txt").read_text()
    assert "== @niivue/niivue 0.69.0 (BSD-2-Clause) ==\n\nBSD 2-Clause License" in licences


@pytest.fixture(scope="module")
def written(volumes_store: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a page of four saved volumes, and its manifest."""
    folder = tmp_path_factory.mktemp("page")
    return folder, write_volumes(*rows_of(volumes_store), [volumes_store], str(folder), {})


@pytest.fixture
def manifest(written: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    """A copy to change."""
    return copy.deepcopy(written[1])


@pytest.fixture
def opened(chromium: Any, written: tuple[Path, dict[str, Any]]) -> Iterator[Open]:
    """A page whose viewer has loaded, of a manifest. At its end: no error was said, nothing asked of a network."""
    pages = []
    complaints = []

    def watch(request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            complaints.append(request.url)

    def open_page(manifest: dict[str, Any] | None = None, expect_errors: bool = False, **options: Any) -> Any:
        page = chromium.new_page(viewport={"width": 900, "height": 1000}, **options)
        pages.append(page)
        if not expect_errors:
            page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", watch)
        page.goto(write_page(written[0], manifest or written[1]))
        page.evaluate("window.viewer.then(() => null)")
        return page

    yield open_page
    for page in pages:
        page.close()
    assert complaints == []


def state(page: Any) -> dict[str, Any]:
    state: dict[str, Any] = page.evaluate("window.viewer.then((viewer) => viewer.state())")
    return state


def at(page: Any) -> list[int]:
    """The slices that are shown."""
    shown: list[int] = state(page)["at"]
    return shown


def seen(page: Any, place: int = 0) -> Any:
    """The pixels of the picture at a place without the words over it, 0..1."""
    page.evaluate("document.querySelectorAll('.fbv-shown').forEach((each) => (each.style.opacity = 0))")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return pictures.imread(io.BytesIO(page.locator(PICTURE).nth(place).screenshot()))[..., :3]


def alone(page: Any, how: str = "blend") -> Any:
    """The page with one picture."""
    page.get_by_label("How").select_option(how)
    return page


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name, exact=name in ("Clean", "Adversarial")).click()


def choose(page: Any, label: str, value: str) -> None:
    page.get_by_label(label, exact=label in ("Solid outline", "Dashed outline", "Channel")).select_option(value)


def cut(page: Any, index: str) -> None:
    """Shows this axial slice."""
    page.get_by_role("slider", name="Axial slice").fill(index)


def strike(page: Any, key: str) -> None:
    page.keyboard.press(key)


def image(made: tuple[Path, dict[str, Any]], *names: str) -> Any:
    """A file of the first case, by the names that lead to it."""
    folder, manifest = made
    key = manifest["cases"][0]["files"]
    for name in names:
        key = key[name]
    base64_text = (folder / f"volumes/{key}.js").read_text().split('"')[3]
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(base64_text)))


def volume(made: tuple[Path, dict[str, Any]], *names: str) -> Any:
    return image(made, *names).get_fdata()


def changed_prediction(made: tuple[Path, dict[str, Any]]) -> Any:
    return volume(made, "predictions", "a", "adversarial") != volume(made, "predictions", "a", "clean")


def sides_of(made: tuple[Path, dict[str, Any]]) -> Any:
    """Lengths of a voxel along the first two axes."""
    return np.abs(np.diag(image(made, "clean").affine))[:2]


def put(made: tuple[Path, dict[str, Any]], key: str, content: bytes) -> None:
    text = base64.b64encode(content).decode()
    (made[0] / f"volumes/{key}.js").write_text(f'freqbenchVolume("{key}","{text}")')


def values(page: Any) -> dict[str, str]:
    page.wait_for_timeout(300)
    terms = page.locator("dt").all_inner_texts()
    told = page.locator("dd").all_inner_texts()
    return dict(zip(terms, told, strict=True))


def hide_overlays(page: Any) -> None:
    choose(page, "Solid outline", "none")
    choose(page, "Dashed outline", "none")


@pytest.mark.integration
def test_planes_scroll_jump_and_are_linked(opened: Open, written: Any) -> None:
    page = alone(opened())
    for plane, axis in (("Axial", 2), ("Coronal", 1), ("Sagittal", 0)):
        press(page, plane)
        slider = page.get_by_role("slider", name=f"{plane} slice")
        before = at(page)
        first = seen(page)
        slider.fill("4")
        assert at(page)[axis] == 4
        assert np.abs(seen(page) - first).max() > 0.1
        page.locator(PICTURE).hover()
        page.mouse.wheel(0, -100)
        assert at(page)[axis] == 5
        page.locator(PICTURE).press("ArrowDown")
        strike(page, "ArrowDown")
        assert (at(page)[axis], slider.input_value()) == (3, "3")
        strike(page, "Shift+ArrowDown")
        assert at(page)[axis] == 0
        assert {*np.flatnonzero(np.not_equal(at(page), before))} <= {axis}
    press(page, "Axial")
    press(page, "Largest perturbation")
    change = np.abs(volume(written, "adversarial") - volume(written, "clean"))
    assert at(page)[2] == change.sum(axis=(0, 1)).argmax()
    press(page, "Coronal")
    press(page, "Most changed prediction")
    assert at(page)[1] == changed_prediction(written).sum(axis=(0, 2)).argmax()
    press(page, "All three")
    before = at(page)
    box = page.locator(PICTURE).bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.2, box["y"] + box["height"] * 0.7)
    numbers = page.locator("label:has-text('slice')").all_inner_texts()
    assert [int(re.findall(r"\d+", text)[0]) - 1 for text in numbers] == at(page) != before


def test_the_screen_shows_the_slice_that_it_names_and_its_values(opened: Open, written: Any) -> None:
    """Rays of the window against the file: the patient's right on the left, the front above, in true proportions."""
    page = alone(opened())
    case = written[1]["cases"][0]
    assert page.locator("[role=alert]").is_hidden()
    hide_overlays(page)
    press(page, "Clean")
    cut(page, "7")
    expected = volume(written, "clean")[::-1, ::-1, 7].T
    shown = seen(page).mean(axis=-1)
    rows, columns = np.nonzero(shown > 0.03)
    top = rows[columns > shown.shape[1] // 2].min()
    bottom = rows.max() + 1
    assert top < bottom
    height, width = expected.shape
    side = min(shown.shape[0] / height, shown.shape[1] / width)
    top = (shown.shape[0] - side * height) / 2
    left = (shown.shape[1] - side * width) / 2
    down = top + side * (np.arange(height) + 0.3)
    across = left + side * (np.arange(width) + 0.3)
    assert np.median(np.abs(shown[np.ix_(down.astype(int), across.astype(int))] - expected.clip(0, 1))) < 0.01
    for axis, index in ((0, 10), (1, 9), (2, 8)):
        press(page, ("Sagittal", "Coronal", "Axial")[axis])
        page.get_by_role("slider", name=re.compile("slice")).fill(str(index))
    clean, adversarial = (volume(written, name)[10, 9, 8] for name in ("clean", "adversarial"))
    told = values(page)
    spoken = [f"{425 * value - 175:.1f} HU ({value:.4f})" for value in (clean, adversarial)]
    assert [told["Clean"], told["Adversarial"]] == spoken
    assert told["Difference"].startswith(f"{425 * (adversarial - clean):+.1f} HU ({adversarial - clean:+.4f}, ")
    assert "where 0 is -175 HU and 1 is 250 HU" in page.locator("dl + p").inner_text()
    label = int(volume(written, "label")[10, 9, 8])
    assert told["Label"] == f"{label} {case['class_names'][label]}"


def pixels(page: Any, place: int, shape: tuple[int, ...], sides: Any) -> Any:
    """Colours of the voxels of an axial slice, `[H, W, 3]`, in one of the pictures, beside their middles."""
    screen = seen(page, place).transpose(1, 0, 2)
    size = sides * min(screen.shape[:2] / (sides * shape[:2]))
    places = []
    for side, count, length in zip(screen.shape[:2], shape[:2], size, strict=True):
        before_middle = count / 2 - 0.7 - np.arange(count)
        places.append((side / 2 + length * before_middle).astype(int))
    return screen[np.ix_(*places)]


def test_clean_prediction_stands_beside_the_attacked_one(opened: Open, written: Any) -> None:
    page = opened()
    choose(page, "Solid outline", "none")
    cut(page, "9")
    assert page.locator(".fbv-shown").all_inner_texts() == ["clean", "adversarial"]
    sides = sides_of(written)
    names = ("clean", "adversarial")
    maps = [volume(written, "predictions", "a", name)[..., 9].astype(int) for name in names]
    colors = np.array([[*bytes.fromhex(class_color(index)[1:])] for index in range(1, 6)]) / 255
    for index, labels in enumerate(maps):
        nearest = np.abs(pixels(page, index, labels.shape, sides)[..., None, :] - colors).max(axis=-1)
        drawn = np.where(nearest.min(axis=-1) < 0.02, nearest.argmin(axis=-1) + 1, 0)
        where = (maps[0] != maps[1]) & (drawn > 0)
        assert where.sum() > 2
        assert (drawn[where] == labels[where]).all()
    left, right = page.locator(PICTURE).all()
    for canvas in (left, right):
        before = at(page)
        box = canvas.bounding_box()
        page.mouse.click(box["x"] + box["width"] * (0.3 if canvas is left else 0.6), box["y"] + box["height"] * 0.55)
        assert at(page) != before
        page.mouse.wheel(0, -100)
    assert at(page)[2] == 11
    left.press("b")
    assert page.locator(PICTURE).count() == 1


def test_window_and_level_are_in_the_files_unit(opened: Open, written: Any, manifest: Any) -> None:
    page = alone(opened())
    hide_overlays(page)
    press(page, "Clean")
    cut(page, "7")
    sides = sides_of(written)
    units = 425 * volume(written, "clean")[..., 7] - 175

    def distance(level: float, width: float) -> float:
        shown = pixels(page, 0, units.shape, sides).mean(axis=-1)
        return float(np.median(np.abs(shown - ((units - level) / width + 0.5).clip(0, 1))))

    assert distance(37.5, 425) < 0.01
    choose(page, "Preset", "lung")
    assert page.get_by_label("Level (HU)").input_value() == "-600"
    assert distance(-600, 1500) < 0.01
    page.get_by_label("Level (HU)").press_sequentially("1234")
    assert state(page)["plane"] == "axial"  # digits are keys elsewhere
    for name, value in (("Level", "60"), ("Width", "80"), ("Width", "-3")):
        page.get_by_label(f"{name} (HU)").fill(value)
        strike(page, "Tab")
    assert distance(60, 80) < 0.01
    assert page.get_by_label("Preset").locator("option:checked").inner_text() == "own numbers"
    for each in manifest["cases"]:
        each |= {"ranges": [], "unit": ""}
    page = opened(manifest)
    assert page.get_by_label("Preset").locator("option").all_inner_texts() == ["full range"]
    assert page.get_by_label("Level (0 to 1)").input_value() == "0.5"
    assert re.fullmatch(r"\d\.\d{4}", values(page)["Clean"])
    assert "do not state the file's unit" in page.locator("dl + p").inner_text()


def test_case_has_one_number_wherever_it_stands(chromium: Any, volumes_store: str, written: Any) -> None:
    """A mean over one case is the number of this case; untrained networks keep much of the background."""
    data = data_of([Store(volumes_store)])[1]
    place = written[0] / "whole.html"
    place.write_text(build_page(data, viewer_script(), written[1]))
    records = rows_of(volumes_store)[0]
    is_row = (records["attack"] == "fgsm") & (records["source_model"] == "a") & (records["target_model"] == "a")
    [row] = records[is_row].to_dict("records")
    clean, left = (f"{100 * row[name]:.1f}" for name in ("dsc_foreground_clean", "dsc_foreground"))
    assert left != f"{100 * row['dsc']:.1f}"
    words = "foreground DSC, mean over organs in the label"
    with chromium.new_page() as page:
        page.goto(f"{place.as_uri()}")
        table = page.locator(".heat-table")
        assert table.locator("tr:has-text('clean') td").first.inner_text() == clean
        table.locator("tr:has-text('fgsm') td").first.get_by_text(left, exact=True).click()
        page.locator("dialog button.link").click()
        facts = page.locator("dialog .facts").inner_text()
        assert f"{left} ({words})" in facts
        assert "DSC with background" in facts
        page.goto(f"{place.as_uri()}#tab=volumes")
        page.reload()
        choose(page, "Made on", "a")
        choose(page, "Attack", "fgsm eps=8/255")
        choose(page, "Predictions of", "a")
        page.get_by_text(f"a: {clean} on clean, {left} on adversarial ({words.replace('DSC', 'DSC x100')}).").wait_for()


@pytest.mark.integration
def test_blinking_blend_and_wipe_show_clean_and_adversarial(opened: Open) -> None:
    page = alone(opened())
    hide_overlays(page)
    choose(page, "Blink, changes", "0.5")
    page.locator(PICTURE).press("b")
    assert state(page)["blinking"]
    shown = playwright.expect(page.locator(".fbv-shown:visible"))
    shown.to_have_text("clean")
    clean = seen(page)
    shown.to_have_text("adversarial")
    strike(page, "b")
    assert not state(page)["blinking"]
    press(page, "Adversarial")
    change = np.abs(seen(page) - clean)[4:-4, 4:-4]  # without the frame of the focus
    assert 0.01 < change.max() < 0.1  # 8/255
    adversarial = seen(page)
    press(page, "Clean")
    clean = seen(page)
    page.get_by_label("From clean").fill("0.5")
    assert np.abs(seen(page) - (clean + adversarial) / 2).max() < 1.1 / 255  # each is rounded
    choose(page, "How", "wipe")
    wiped = seen(page)
    middle = clean.shape[1] // 2
    assert np.array_equal(wiped[:, : middle - 2], clean[:, : middle - 2])
    assert np.array_equal(wiped[:, middle + 2 :], adversarial[:, middle + 2 :])
    page.get_by_label("Border").fill("0.8")  # of the width is clean
    wiped = seen(page)
    assert np.array_equal(wiped[:, : middle + 2], clean[:, : middle + 2])
    assert not np.array_equal(wiped, clean)


@pytest.mark.integration
def test_small_screen_has_named_choices(opened: Open, written: Any) -> None:
    page = opened(reduced_motion="reduce")
    page.locator(PICTURE).first.focus()
    for mix in (0, 1, 0):
        strike(page, "b")
        assert (state(page)["mix"], state(page)["blinking"]) == (mix, False)
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    box = page.locator(PICTURE).bounding_box()
    assert 0 <= box["x"] < box["x"] + box["width"] <= 360
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, select, canvas, button')]"
        ".filter((each) => !(each.labels?.length || each.ariaLabel || each.textContent.trim())).length"
    )
    assert unnamed == 0
    reached = set()
    for _ in range(40):
        strike(page, "Tab")
        reached.add(page.evaluate("document.activeElement.tagName"))
    assert {"SELECT", "BUTTON", "CANVAS", "INPUT", "SUMMARY"} <= reached
    choose(page, "Attack", "gn std=8/255")
    playwright.expect(page.locator(".fbv")).to_have_attribute("aria-busy", "false")
    choose(page, "Predictions of", "b")
    page.get_by_text("b: ").wait_for()
    assert (state(page)["attack"], state(page)["target"]) == ("gn std=8/255", "b")
    row = {"dataset": "phantom", "case": written[1]["cases"][0]["case"], "source": "b", "attack": "fgsm eps=8/255"}
    page.evaluate("(row) => window.viewer.then((viewer) => viewer.show(row))", row)
    assert (state(page)["source"], state(page)["attack"]) == ("b", "fgsm eps=8/255")


@pytest.mark.integration
def test_overlays_take_the_classes_colours(opened: Open, written: Any) -> None:
    page = alone(opened())
    cut(page, "11")  # where organs have an inside
    hide_overlays(page)
    bare = seen(page)
    solid = page.get_by_label("Solid outline", exact=True)
    solid.select_option("label")
    full = seen(page)
    label = volume(written, "label")[..., at(page)[2]]
    for index in (int(each) for each in np.unique(label) if each):
        color = [int(class_color(index)[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        assert (np.abs(full - color).max(axis=-1) < 0.01).any()
    page.get_by_label("Solid outline: opacity").fill("0.5")
    assert np.abs(seen(page) - (bare + full) / 2).max() < 3 / 255
    page.get_by_label("Solid outline: opacity").fill("1")
    solid.select_option("none")
    choose(page, "Dashed outline", "label")
    whole, dashed = (np.abs(each - bare).max(axis=-1) > 0.02 for each in (full, seen(page)))
    assert 0.2 < dashed.sum() / whole.sum() < 0.8
    assert not (dashed & ~whole).any()
    hide_overlays(page)
    page.locator(PICTURE).press("p")
    assert page.locator(".fbv-shown:visible").inner_text() == "perturbation x 20"  # 20 * 8/255 is the last below 1
    assert page.locator(".fbv-ends span").all_inner_texts() == ["-0.05", "0", "+0.05"]
    assert "8/255" in page.get_by_text("The largest change in the volume").inner_text()
    shown = seen(page)
    change = volume(written, "adversarial") - volume(written, "clean")
    slice_ = change[..., at(page)[2]]
    redder = (shown[..., 0] > shown[..., 2] + 0.3).any()
    bluer = (shown[..., 2] > shown[..., 0] + 0.3).any()
    assert (redder, bluer) == ((slice_ > 0.02).any(), (slice_ < -0.02).any())
    choose(page, "Magnified", "1")
    assert np.abs(seen(page) - shown).max() > 0.2


@pytest.mark.integration
def test_viewer_opens_where_most_of_the_label_changed(opened: Open, written: Any) -> None:
    sums = (volume(written, "predictions", "a", "adversarial") != volume(written, "predictions", "a", "clean")).sum(
        axis=(0, 1)
    )
    present = (volume(written, "label") > 0).sum(axis=(0, 1))
    assert at(opened())[2] == np.where(sums >= sums.max() / 10, present, -1).argmax() != sums.argmax()


@pytest.mark.integration
def test_picture_says_which_of_several_channels_it_shows(opened: Open, written: Any, manifest: Any) -> None:
    case = manifest["cases"][0]
    case["ranges"] = []
    for name in ("clean", "adversarial"):
        one = volume(written, name)
        both = nibabel.Nifti1Image(np.stack([one, one[::-1]], axis=-1).astype(np.float32), np.eye(4))
        put(written, f"both-{name}", gzip.compress(both.to_bytes()))
        case["files"][name] = f"both-{name}"
    page = opened(manifest)
    words = page.locator(".fbv-shown")
    assert words.all_inner_texts() == ["clean, channel 1 of 2", "adversarial, channel 1 of 2"]
    choose(page, "Channel", "2 of 2")
    assert words.all_inner_texts() == ["clean, channel 2 of 2", "adversarial, channel 2 of 2"]


@pytest.mark.integration
def test_outlines_of_regions_go_round_those_within(opened: Open, written: Any, manifest: Any) -> None:
    """Region 2 lies in region 1 and ends with it on one side; label 3 is region 2 alone, which crosses its edge."""
    label = np.zeros((24, 20, 16), np.uint8)
    label[2:18, 3:17] = 1
    label[6:18, 3:15] = 2
    label[18:21, 3:15] = 3
    case = manifest["cases"][0]
    case["files"]["label"] = "own"
    manifest["regions"] = {case["dataset"]: [[], [1], [1, 2], [2]]}
    put(written, "own", gzip.compress(nibabel.Nifti1Image(label, np.eye(4)).to_bytes()))
    page = alone(opened(manifest))
    cut(page, "7")
    hide_overlays(page)
    choose(page, "Solid outline", "label")
    shown = pixels(page, 0, label.shape, sides_of(written))
    one, two = (np.array([*bytes.fromhex(class_color(index)[1:])]) / 255 for index in (1, 2))
    drawn = sum(k * (np.abs(shown - color).max(axis=-1) < 0.02) for k, color in ((1, one), (2, two)))
    inside = [np.isin(label[..., 7], labels) for labels in ((1, 2), (2, 3))]
    edges = [mask & ~binary_erosion(mask) for mask in inside]
    assert (drawn[edges[0] & ~edges[1]] == 1).all()
    assert (drawn[edges[1] & ~edges[0]] == 2).all()
    assert {*drawn[edges[0] & edges[1]]} == {1, 2}
    assert not drawn[~edges[0] & ~edges[1]].any()
    assert page.locator(".fbv-legend").get_attribute("aria-label") == "Regions"


def test_names_from_data_are_text(opened: Open, manifest: Any) -> None:
    evil = "<script>window.hurt=1</script><img src=x onerror=window.hurt=1>"
    for case in manifest["cases"]:
        case |= {"case": evil, "attack": evil, "source": evil, "class_names": [evil] * len(case["class_names"])}
        case["files"]["predictions"] = {evil: case["files"]["predictions"]["a"]}
    page = opened(manifest)
    values(page)
    assert page.evaluate("window.hurt") is None
    assert evil in page.locator(".fbv-legend").inner_text()
    assert page.get_by_label("Case").locator("option").all_inner_texts() == [f"phantom: {evil}"]


@pytest.mark.integration
@pytest.mark.parametrize(
    "fault", ["damaged", *(pytest.param(name, marks=pytest.mark.slow) for name in ("missing", "foreign", "cut"))]
)
def test_a_file_that_cannot_be_read_is_one_clear_line(opened: Open, written: Any, manifest: Any, fault: str) -> None:
    files = manifest["cases"][0]["files"]
    key = files["adversarial"]
    files["adversarial"] = f"bad-{fault}"
    scripts = {
        "foreign": "var nothing = 0",
        "damaged": f'freqbenchVolume("bad-damaged","{base64.b64encode(b"no volume" * 99).decode()}")',
        "cut": (written[0] / f"volumes/{key}.js").read_text().replace(key, "bad-cut")[:800] + '==")',
    }
    if fault in scripts:
        (written[0] / f"volumes/bad-{fault}.js").write_text(scripts[fault])
    page = opened(manifest, expect_errors=True)
    choose(page, "Predictions of", "b")  # which helps nothing
    line = page.get_by_role("alert").inner_text()
    assert re.search("not found|holds no volume|not a readable|damaged", line)
    assert "\n" not in line
    choose(page, "Attack", "gn std=8/255")
    alone(page).locator(PICTURE).wait_for()
    assert page.locator("[role=alert]").is_hidden()
    assert len(np.unique(seen(page).round(2))) > 10


@pytest.mark.integration
def test_a_browser_without_webgl2_is_told(chromium: Any, written: Any) -> None:
    with chromium.new_page() as page:
        page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
        page.goto(write_page(*written))
        assert "WebGL2" in page.get_by_role("alert").inner_text()
