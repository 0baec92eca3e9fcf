"""The README and the pages of `docs` hold what they say: paths, commands, names, tables, job files."""

import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
from email.message import Message
from pathlib import Path

import board_pages
import generated
import pages
import pandas as pd
import pytest
import report_pages
import yaml
from scipy.stats import ttest_rel
from tiny_job import execute

import freqbench as fb
from freqbench.attacks import ATTACKS
from freqbench.cli import PANELS
from freqbench.core import config
from freqbench.core.errors import UserError
from freqbench.core.names import job_file, packaged_jobs
from freqbench.data import DATASETS
from freqbench.job.schema import JobSpec
from freqbench.metrics import METRICS
from freqbench.models import MODELS
from freqbench.models.packaged import WORST_CASES
from freqbench.reporting.leaderboard.entry_checks import examine, reasons
from freqbench.reporting.page import facts
from freqbench.results import CLASS_RECORDS, RECORDS
from freqbench.training import TrainJob

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.repository


def blocks(page: str) -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


(OWN,) = blocks("README.md")


MADE = {"README.md": "front_page", "CITATION.cff": "citation", "docs/install.md": "install_page"}
PAGES: tuple[tuple[str | Path, str], ...] = (
    *MADE.items(),
    ("jobs/README.md", "jobs_page"),
    (board_pages.BOARD_PAGE, "leaderboard_page"),
    (board_pages.ACDC_PAGE, "acdc_page"),
    (report_pages.EJECTION, "ejection_page"),
    (report_pages.NNUNET, "nnunet_page"),
    (WORST_CASES, "worst_cases"),
    (report_pages.DETECTION, "detection_page"),
    (report_pages.STRONGEST, "strongest_page"),
)
PLACE = """[project.urls]
Repository = "https://github.com/lab/freqbench"
Documentation = "https://lab.github.io/freqbench"
Image = "https://ghcr.io/lab/freqbench"
"""


def test_a_place_stands_wherever_it_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are made in a copy whose `[project.urls]` is another."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = re.sub(r"^\[project\.urls\].*?(?=^\[)", f"{PLACE}\n", project, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "docs").mkdir()
    (tmp_path / "pyproject.toml").write_text(project)
    for name in MADE:
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(generated, "ROOT", tmp_path)
    texts = {name: getattr(generated, function)() for name, function in MADE.items()}
    run = "-w /tmp ghcr.io/lab/freqbench:cpu freqbench run quickstart`."
    assert "(https://github.com/lab/freqbench/actions/workflows/ci.yml/badge.svg)" in texts["README.md"].splitlines()[3]
    assert "Repository: <https://github.com/lab/freqbench>, Documentation: <https://lab." in texts["README.md"]
    assert all(run in texts[name] for name in ("README.md", "docs/install.md"))
    cited = yaml.safe_load(texts["CITATION.cff"])
    assert cited["repository-code"] == "https://github.com/lab/freqbench"
    assert cited["url"] == "https://lab.github.io/freqbench"


@pytest.mark.parametrize(("path", "function"), PAGES)
def test_made_pages_are_those_of_their_files(path: str | Path, function: str) -> None:
    assert (ROOT / path).read_text("utf-8") == getattr(generated, function)(), "run python docs/generated.py"


@pytest.mark.parametrize("urls", [{}, {"Documentation": "https://lab.github.io/freqbench"}])
def test_page_links_documentation_once_it_has_place(urls: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    stated = Message()
    for name, url in urls.items():
        stated["Project-URL"] = f"{name}, {url}"
    monkeypatch.setattr(facts, "metadata", lambda _: stated)
    assert facts.docs() == urls.get("Documentation")


def test_an_extra_is_named_as_a_clone_installs_it() -> None:
    """A bare name would find nothing on an index, or a package of somebody else."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    code = [*ROOT.glob("freqbench/**/*.py"), *ROOT.glob("freqbench/**/*.html"), *ROOT.glob("cluster/*")]
    texts = {path: path.read_text("utf-8") for path in (*map(ROOT.joinpath, pages.PAGES), *code) if path.is_file()}
    assert [path for path, text in texts.items() if re.search(r"pip install '?freqbench", text)] == []
    named = [
        name for text in texts.values() for name in re.findall(r"""'\.\[([\w,]+)\]'|installing\("(\w+)"\)""", text)
    ]
    named = [each for pair in named for each in (pair[0] or pair[1]).split(",")]
    assert len(named) > 10
    assert set(named) <= extras.keys()


def test_sentences_of_reports_are_what_stored_rows_say() -> None:
    for page, sentences in report_pages.said().items():
        text = " ".join(page.read_text(encoding="utf-8").split())
        assert [each for each in sentences if each not in text] == [], page


def test_sentence_whose_order_fell_is_refused() -> None:
    with pytest.raises(ValueError, match=r"refute a sentence.*`union` is ahead"):
        board_pages.of_rows(False, "`union` is ahead.")


def test_nnunets_mirroring_is_compared_at_equal_passes() -> None:
    rows = report_pages.hidden_rows().query("scope == 'joint' and passes == 160")
    compared = rows.groupby(["set", "way"]).agg({"loss": frozenset, "case_id": frozenset})
    assert len(compared) == 4
    assert {*compared["loss"]} == {frozenset({"auto", "dice"})}
    assert compared["case_id"].nunique() == 1


def test_ten_times_the_passes_are_in_all_sets_of_the_board() -> None:
    left = board_pages.tenfold_rows()
    (_, boards) = board_pages.stored_boards()
    places = ("worst", *map(board_pages.set_name, boards))
    cases = left.index.unique("case_id")
    assert {*left.index} == {*itertools.product(places, board_pages.FIRST_TWO, cases)}


def test_goals_worst_of_four_sets_is_least_of_public_rows() -> None:
    rows = fb.load_results(board_pages.ENTRIES / "union-wide" / "store")
    rows = rows[rows["attack"].isin(["sa2_opt", "vafa_opt", "apgd"]) & ~rows["params"].str.contains('"random"')]
    four = rows[rows["budget"].isin([20, 0.4, 8 / 255])].groupby("case_id", observed=True)["dsc"].min()
    page = board_pages.BOARD_PAGE.read_text("utf-8")
    (worst,) = re.findall(r"\| `union-wide` +\| [\d.]+ +\| ([\d.]+) +\| [\d.]+ +\|$", page, re.MULTILINE)
    assert (len(four), f"{100 * four.mean():.2f}") == (20, worst)


def test_lead_over_every_other_network_is_query_over_rows() -> None:
    whole, boards = board_pages.stored_boards()
    names = list(whole.rows["entry"])
    tests = {}
    for board in (whole, *boards):
        scores = board_pages._scores(board.over or (board.bounds,), names, board_pages.ENTRIES)
        for (a, one), (b, other) in itertools.permutations(zip(names, scores, strict=True), 2):
            if one.mean() > other.mean():
                tests[board_pages.set_name(board), a, b] = ttest_rel(one, other).pvalue  # then Holm's steps
    steps = [(p * (len(tests) - k), pair) for k, (pair, p) in enumerate(sorted(tests.items(), key=lambda x: x[1]))]
    ahead = {pair for _, pair in itertools.takewhile(lambda step: step[0] < 0.05, steps)}
    for line in board_pages.leads_table().splitlines()[2:]:
        place, *cells = (cell.strip() for cell in line.split("|")[1:-1])
        first, lead, ours = (re.findall(r"`(.+?)`", cell) for cell in cells)
        assert {*lead} == {name for name in names if name != first[0] and (place, first[0], name) not in ahead}
        every = {a for a in first + lead if all((place, a, b) in ahead for b in {*names} - {*first, *lead})}
        assert every == ({*first, *lead} if cells[2] == "all" else {*ours})


def test_the_readme_has_both_commands_and_ci_runs_them() -> None:
    ci, read = ((ROOT / ".ci" / name).read_text(encoding="utf-8") for name in ("run", "read"))
    assert "pip install -e . && python bench.py run jobs/quickstart.yaml" in TEXT
    assert "pip install -e '.[dev]' && pytest" in TEXT
    assert "pip install -e '.[dev]' && pytest" in ci
    assert "python bench.py run jobs/quickstart.yaml" in ci
    assert "sphinx-build -W" in read
    assert "pre-commit run --all-files" in read
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    assert {name: job["steps"][-1].get("run") for name, job in jobs.items()}.items() >= {
        "whole": ".ci/run",
        "read": ".ci/read",
        "pages": ".ci/pages",
        "workshop": ".ci/workshop",
    }.items()


@pytest.mark.parametrize("page", pages.PAGES)
def test_a_page_names_nothing_that_does_not_exist(page: str) -> None:
    assert list(pages.complaints((ROOT / page).read_text(encoding="utf-8"), page)) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[a page](docs/nowhere.md)", "link docs/nowhere.md"),
        ("See `freqbench/attacks/pdg.py`.", "path freqbench/attacks/pdg.py"),
        ("```bash\nfreqbench rnu mine.yaml  # all\n```", "command freqbench rnu"),
        ("```bash\npip install x && freqbench run quikstart\n```", "freqbench run: packaged job quikstart"),
        ("`freqbench run mine.yaml --ouput x`", "freqbench run: No such option: --ouput"),
        ("The option `--ouput`.", "option --ouput"),
        ("`sa3 rho=0.4` takes most.", "attack sa3"),
        ("`sa2 roh=0.4` takes most.", "parameter roh of sa2"),
        ("The column `dsc_foregruond`.", "word dsc_foregruond"),
        ("`test_names.py::test_nothing`", "test test_names.py::test_nothing"),
        ("`freqbench.attacks.mak` makes one.", "name freqbench.attacks.mak"),
        ("```python\nimport freqbench as fb\nfb.atack()\n```", "fb.atack"),
    ],
)
def test_a_name_of_nothing_is_a_complaint(text: str, complaint: str) -> None:
    (line,) = pages.complaints(text, "README.md")
    assert line.startswith(complaint)


def test_the_job_of_the_readme_is_valid_and_has_ten_lines() -> None:
    JobSpec.model_validate(yaml.safe_load(OWN))
    assert len(OWN.strip().splitlines()) <= 10


@pytest.mark.parametrize(
    "page", ["own-data", "machines", "object-storage", "command", "meshnet", "nnunet", "onnx", "slices"]
)
def test_a_block_of_a_page_is_part_of_a_valid_job(page: str) -> None:
    for block in blocks(f"docs/how-to/{page}.md"):
        JobSpec.model_validate(yaml.safe_load(OWN) | yaml.safe_load(block))


def test_the_job_of_ones_own_classes_runs(tmp_path: Path) -> None:
    (block,) = blocks("docs/how-to/own-classes.md")
    content = yaml.safe_load(block)
    content["datasets"][0]["cases"] = 1
    content["resources"] = {"threads": 1}
    summary = execute(content, tmp_path)
    assert (summary.num_new, summary.num_failed) == (2, 0)


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").rglob("*.yaml"), key=str), ids=lambda path: Path(path).stem)
def test_every_job_file_reads_and_is_packaged(path: Path) -> None:
    name = path.relative_to(ROOT / "jobs").with_suffix("").as_posix()
    config.load(job_file(name), TrainJob if "splits" in yaml.safe_load(path.read_text(encoding="utf-8")) else JobSpec)
    assert packaged_jobs()[name].samefile(path)


def test_packaged_job_is_found_by_name_and_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, path in packaged_jobs().items():
        assert job_file(name) == job_file(f"jobs/{name}.yaml") == str(path)
    assert job_file("brain_networks") == job_file("jobs/brain_networks.yaml") == str(packaged_jobs()["brain/networks"])


def test_a_user_s_file_goes_before_a_packaged_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert job_file("quickstart") == str(packaged_jobs()["quickstart"])
    for own in ("quickstart.yaml", "quickstarts.yaml", "s3://lab/suite.yaml"):
        assert job_file(own) == own
    with pytest.raises(UserError, match=r"unknown packaged job 'quikstart'\. Did you mean 'quickstart'"):
        job_file("quikstart")
    Path("hippocampus").mkdir()
    for own in ("quickstart", "hippocampus/suite"):
        Path(own).touch()
        assert job_file(own) == own
    assert job_file("hippocampus") == str(packaged_jobs()["hippocampus/main"])


def numbers(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\d)", text))


def test_sizes_the_index_of_reports_are_those_of_the_reports() -> None:
    reports = ROOT / "reports"
    rows = re.findall(r"^\| .+\? \| (.+) \| \[.+\]\((.+\.md).*\) \|", (reports / "README.md").read_text(), re.MULTILINE)
    assert len(rows) >= 10
    for answer, report in rows:
        assert numbers(answer) <= numbers((reports / report).read_text()), report
    quick, tables = (numbers((reports / "quickstart" / page).read_text()) for page in ("README.md", "tables.md"))
    assert quick <= tables


def test_nnunets_own_commands_find_the_clean_dice_of_its_report() -> None:
    """Each patient's with sums in float32; its own float16 turns single voxels, but not the mean."""
    clean = pd.read_csv(report_pages.NNUNET.with_name("clean.csv"))
    assert (clean["freqbench"] - clean["nnunetv2_float32"]).abs().max() <= 1e-4
    same = clean[clean["voxels_of_float16"] == 0]
    assert (same["freqbench"] - same["nnunetv2"]).abs().max() <= 1e-4
    assert clean["voxels_of_float16"].max() <= 2
    assert abs(clean["freqbench"].mean() - clean["nnunetv2"].mean()) <= 1e-4


def dsc_of(tables: Path) -> dict[tuple[str, str], float]:
    rows = {}
    for network in ("unet", "unet-vaft"):
        table = generated.section_of(tables, f"phantom: attacks on {network}, white-box").splitlines()
        cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table if line.startswith("|")]
        place = cells[0].index("foreground DSC")
        rows.update({(network, line[0]): float(line[place]) for line in cells[2:]})
    return rows


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_stored_tables_are_what_the_quick_start_gives(tmp_path: Path) -> None:
    """To 0.1 where no step follows another, else two points; FREQBENCH_QUICKSTART names a store that has run."""
    bench = (sys.executable, "bench.py")
    out = os.environ.get("FREQBENCH_QUICKSTART")
    made = tmp_path / "tables.md"
    if not out:
        out = str(tmp_path / "quickstart")
        subprocess.run([*bench, "run", "jobs/quickstart.yaml", "--out", out, "--no-page"], cwd=ROOT, check=True)
    subprocess.run([*bench, "report", out, "--format", "md", "--to", str(made)], cwd=ROOT, check=True)
    again = dsc_of(made)
    stored = dsc_of(generated.QUICKSTART)
    assert again.keys() == stored.keys()
    single = {row for row in stored if row[1].split()[0] in ("clean", "gn") or "control=" in row[1]}
    assert len(single) == 6
    for rows, by in ((single, 0.1), (stored.keys() - single, 2.0)):
        kept = {row: again[row] for row in rows}
        expected = {row: stored[row] for row in rows}
        assert kept == pytest.approx(expected, abs=by + 1e-9), "make reports/quickstart/tables.md again"


def test_tables_of_the_reference_have_a_row_for_each_entry() -> None:
    made = {
        generated.attack_table(): ATTACKS,
        generated.model_table(): MODELS,
        generated.dataset_table(): DATASETS,
        generated.metric_table(): METRICS,
        generated.column_table(RECORDS): [column.name for column in RECORDS],
        generated.column_table(CLASS_RECORDS): [column.name for column in CLASS_RECORDS],
    }
    for text, names in made.items():
        assert re.findall(r"^\| \[?`(\w+)`", text, flags=re.MULTILINE)[-len(names) :] == list(names)


def test_second_board_has_ten_sets_and_entries_that_stand() -> None:
    whole, boards = board_pages.stored_boards(board_pages.ACDC_ENTRIES)
    assert len(whole.over) == len(boards) == 10
    assert set(whole.rows["patients"]) == {8}
    for entry in board_pages.stored_entries(board_pages.ACDC_ENTRIES).values():
        assert (entry.card.checkpoint, reasons(examine(entry.told))) == (f"train://acdc/board_train/{entry.name}", [])


def test_rows_of_a_table_have_the_cells_of_its_head() -> None:
    """A `|` that is not escaped begins another cell, and the last one falls off the page."""
    written = [path for path in ROOT.glob("docs/*/*.md") if path.parent.name != "generated"]
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *written):
        lines = page.read_text(encoding="utf-8").splitlines()
        for is_row, rows in itertools.groupby(lines, lambda line: line.startswith("|")):
            cells = {len(re.findall(r"(?<!\\)\|", row)) for row in rows if is_row}
            assert len(cells) <= 1, f"{page}: rows of {cells} bars"


def test_reference_says_what_each_parameter_of_attack_means() -> None:
    text = "\n".join(generated.attack_pages().values())
    rows = re.findall(r"^\| `(\w+)` +\| [^|]+\|([^\n]*)\|$", text, flags=re.MULTILINE)
    assert len(rows) > len(ATTACKS)
    assert [name for name, meaning in rows if not meaning.strip()] == []
    assert "form of the algorithm: `released`, `released-cosine`, `paper`" in text


@pytest.mark.parametrize("model", [JobSpec, TrainJob])
def test_the_reference_says_what_each_key_of_a_job_means(model: type[JobSpec | TrainJob]) -> None:
    text = dict(generated.key_pages(model, "A job"))["A-job"]
    rows = [[cell.strip() for cell in line.split(" | ")] for line in text.splitlines() if line.startswith("| `")]
    assert [row[0].strip("| `") for row in rows] == [*model.model_fields]
    assert all(row[-1].strip("| ") for row in rows)


def test_the_reference_has_every_command() -> None:
    text = generated.command_line()
    headed = re.findall(r"^## `freqbench (\w+)`", text, re.MULTILINE)
    assert [*itertools.chain(*PANELS.values())] == headed
    assert "--trust-code" in text, "options that --help leaves out"


def test_the_gpu_page_tells_speed_that_was_measured(tmp_path: Path) -> None:
    """Steps and all else in a table each, numbers to three digits."""
    assert generated.gpu_tables(tmp_path / "gpu.json") == "Nothing is measured yet."
    machine = {"gpu": "Card 1", "driver": "5.1", "torch": "2.11"}
    seconds = {"bare step, s": 0.02, "attack step, s": 0.0214, "ratio": 1.0712, "bound": None}
    peaks = {"bare peak, GiB": 3.1234, "attack peak, GiB": 3.5}
    step = {"attack": "vafa", "block": 8, "model": "unet", **seconds, **peaks, "date": "2026-01-02"}
    other = {"what": "one unit", "ratio": 1.0712, "date": "2026-01-03"}
    (tmp_path / "gpu.json").write_text(json.dumps({"machine": machine, "rows": [step, other]}))
    text = " ".join(generated.gpu_tables(tmp_path / "gpu.json").split())
    assert text.startswith("Card 1, driver 5.1, torch 2.11. | attack | network |")
    assert "| `vafa` 8 | unet | 20 | 21.4 | 1.07 | | 3.12 | 3.5 | 2026-01-02 |" in text
    assert "| one unit | | ratio 1.07 | 2026-01-03 |" in text
