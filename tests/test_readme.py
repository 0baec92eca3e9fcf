"""The README and the pages of `docs` hold what they say: paths, commands, names, tables, job files."""

import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from email.message import Message
from pathlib import Path

import finding
import generated
import numpy as np
import pages
import pandas as pd
import pytest
import yaml
from matplotlib.container import BarContainer
from tiny_job import execute

from freqbench.attacks import ATTACKS
from freqbench.cli import PANELS
from freqbench.core import config
from freqbench.core.errors import UserError
from freqbench.core.names import job_file, packaged_jobs
from freqbench.data import DATASETS
from freqbench.data.loaders.msd import LISTS
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
    """The YAML of a page."""
    return re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


(OWN,) = blocks("README.md")


def test_the_readme_is_short() -> None:
    assert len(TEXT.splitlines()) <= 150


MADE = {"README.md": "front_page", "CITATION.cff": "citation", "docs/install.md": "install_page"}
PLACE = """[project.urls]
Repository = "https://github.com/lab/freqbench"
Documentation = "https://lab.github.io/freqbench"
Image = "https://ghcr.io/lab/freqbench"
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, str]]:
    """Makes the files of MADE in a copy whose `[project.urls]` is another."""

    def made(urls: str) -> dict[str, str]:
        project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        project = re.sub(r"^\[project\.urls\].*?(?=^\[)", f"{urls}\n", project, flags=re.DOTALL | re.MULTILINE)
        (tmp_path / "docs").mkdir(exist_ok=True)
        (tmp_path / "pyproject.toml").write_text(project)
        for name in MADE:
            (tmp_path / name).write_bytes((ROOT / name).read_bytes())
        monkeypatch.setattr(generated, "ROOT", tmp_path)
        return {name: getattr(generated, function)() for name, function in MADE.items()}

    return made


@pytest.mark.parametrize(("name", "function"), MADE.items())
def test_addresses_and_citation_are_made_from_the_projects_files(name: str, function: str) -> None:
    assert getattr(generated, function)() == (ROOT / name).read_text(encoding="utf-8"), "run python docs/generated.py"


@pytest.mark.parametrize("urls", ["[project.urls]\n", ""])
def test_addresses_are_left_out_without_a_place(made: Callable[[str], dict[str, str]], urls: str) -> None:
    texts = made(urls)
    assert "<!-- addresses -->\n<!-- /addresses -->" in texts["README.md"]
    assert yaml.safe_load(texts["CITATION.cff"]).keys().isdisjoint({"url", "repository-code"})
    for word in ("badge.svg", "Repository:", "Documentation: <", "Without an installation"):
        assert not any(word in text for text in texts.values()), word


def test_a_place_stands_once_wherever_it_belongs(made: Callable[[str], dict[str, str]], tmp_path: Path) -> None:
    texts, run = made(PLACE), "-w /tmp ghcr.io/lab/freqbench:cpu freqbench run quickstart`."
    assert "(https://github.com/lab/freqbench/actions/workflows/ci.yml/badge.svg)" in texts["README.md"].splitlines()[3]
    assert "Repository: <https://github.com/lab/freqbench>, Documentation: <https://lab." in texts["README.md"]
    assert all(run in texts[name] for name in ("README.md", "docs/install.md"))
    cited = yaml.safe_load(texts["CITATION.cff"])
    assert cited["repository-code"] == "https://github.com/lab/freqbench"
    assert cited["url"] == "https://lab.github.io/freqbench"
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    assert {
        name: getattr(generated, function)() for name, function in MADE.items()
    } == texts  # once, also the second time


@pytest.mark.parametrize("urls", [{}, {"Documentation": "https://lab.github.io/freqbench"}])
def test_the_page_links_the_documentation_once_it_has_a_place(
    urls: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = Message()
    for name, url in urls.items():
        stated["Project-URL"] = f"{name}, {url}"
    monkeypatch.setattr(facts, "metadata", lambda _: stated)
    assert facts.docs() == urls.get("Documentation")


def test_nothing_that_is_shipped_names_a_placeholder() -> None:
    folders = [ROOT / name for name in ("freqbench", "docs", "jobs", "cluster", "reports", ".github", ".ci")]
    files = [*ROOT.glob("*"), *(path for folder in folders for path in folder.rglob("*"))]
    files = [path for path in files if path.is_file() and not {"build", "node_modules"} & set(path.parts)]
    assert len(files) > 500
    assert [path for path in files if b"example.org" in path.read_bytes()] == []


def test_an_extra_is_named_as_a_clone_installs_it() -> None:
    """A bare name would find nothing on an index, or a package of somebody else."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    code = [*ROOT.glob("freqbench/**/*.py"), *ROOT.glob("freqbench/**/*.html"), *ROOT.glob("cluster/*")]
    texts = {
        path: path.read_text(encoding="utf-8") for path in (*map(ROOT.joinpath, pages.PAGES), *code) if path.is_file()
    }
    assert [path for path, text in texts.items() if re.search(r"pip install '?freqbench", text)] == []
    named = [
        name for text in texts.values() for name in re.findall(r"""'\.\[([\w,]+)\]'|installing\("(\w+)"\)""", text)
    ]
    named = [each for pair in named for each in (pair[0] or pair[1]).split(",")]
    assert len(named) > 10
    assert set(named) <= extras.keys()


def test_time_and_cost_of_real_data_are_those_of_the_stored_plan() -> None:
    section = TEXT.partition("**Time and cost**")[2].partition("\n\n")[0]
    reports = ROOT / "reports" / "hippocampus"
    plan, report = ((reports / name).read_text(encoding="utf-8") for name in ("plan.txt", "README.md"))
    minutes, price = re.findall(r"(\d+) minutes of one worker, or ([\d.]+)", section)[0]
    assert f"about {minutes} minutes left on one worker" in plan
    assert f"{price} at 2.5/h" in plan
    (records,) = re.findall(r"\(([\d,]+) records\)", section)
    assert f"0 of {records.replace(',', '')} records" in plan
    assert f"The {records} records took" in report


def test_the_number_at_the_top_is_that_of_the_board() -> None:
    told = numbers(TEXT.partition("**One number**")[2].partition("\n\n")[0])
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in generated.board_table().splitlines()[2:]]
    (plain,) = (row for row in rows if row[1] == "unet")
    assert told == {plain[3], plain[4].split()[0], rows[0][4].split()[0]}
    assert len(rows) == 19, "the best of nineteen"


def test_the_readme_has_both_commands_and_ci_runs_them() -> None:
    ci, read = ((ROOT / ".ci" / name).read_text(encoding="utf-8") for name in ("run", "read"))
    assert "pip install -e . && python bench.py run jobs/quickstart.yaml" in TEXT
    assert "pip install -e '.[dev]' && pytest" in TEXT
    assert "pip install -e '.[dev]' && pytest" in ci
    assert "python bench.py run jobs/quickstart.yaml" in ci
    assert "sphinx-build -W" in read
    assert "pre-commit run --all-files" in read
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    assert {name: job["steps"][-1]["run"] for name, job in jobs.items()}.items() >= {
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
        ("`job/keys.json` has them.", "path job/keys.json"),
        ("`quickstrat.yaml` is a job.", "path quickstrat.yaml"),
        ("`python tests/job_keys.py` writes them.", "path tests/job_keys.py"),
        ("```bash\npytest tests/nowhere/test_it.py\n```", "path tests/nowhere/test_it.py"),
        ("```bash\nfreqbench rnu mine.yaml  # all\n```", "command freqbench rnu"),
        ("```bash\npip install x && freqbench run quikstart\n```", "freqbench run: packaged job quikstart"),
        ("```bash\nfreqbench run \\\n  jobs/nowhere.yaml\n```", "freqbench run: job jobs/nowhere.yaml"),
        ("`freqbench run mine.yaml --ouput x`", "freqbench run: No such option: --ouput"),
        ("```bash\nX=1 python bench.py audit OUT --rnu\n```", "freqbench audit: No such option: --rnu"),
        ("`report --table leaderbord`", "freqbench report: table leaderbord"),
        ("The option `--ouput`.", "option --ouput"),
        ("`sa3 rho=0.4` takes most.", "attack sa3"),
        ("`sa2 roh=0.4` takes most.", "parameter roh of sa2"),
        ("The attack `vaffa`.", "word vaffa"),
        ("The column `dsc_foregruond`.", "word dsc_foregruond"),
        ("`contrl: uniform` is a null row.", "word contrl of contrl: uniform"),
        ("`loss: dise` raises the Dice.", "word dise of loss: dise"),
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
    "page", ["own-data", "machines", "object-storage", "command", "meshnet", "nnunet", "onnx", "prompts", "slices"]
)
def test_a_block_of_a_page_is_part_of_a_valid_job(page: str) -> None:
    for block in blocks(f"docs/how-to/{page}.md"):
        JobSpec.model_validate(yaml.safe_load(OWN) | yaml.safe_load(block))


def test_the_job_of_robust_training_is_valid() -> None:
    (block,) = blocks("docs/how-to/robust-training.md")
    TrainJob.model_validate(yaml.safe_load(block))


def test_the_job_of_ones_own_classes_runs(tmp_path: Path) -> None:
    (block,) = blocks("docs/how-to/own-classes.md")
    content = yaml.safe_load(block)
    content["datasets"][0]["cases"], content["resources"] = 1, {"threads": 1}
    summary = execute(content, tmp_path)
    assert (summary.num_new, summary.num_failed) == (2, 0)


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").rglob("*.yaml"), key=str), ids=lambda path: Path(path).stem)
def test_every_job_file_reads_and_is_packaged(path: Path) -> None:
    name = path.relative_to(ROOT / "jobs").with_suffix("").as_posix()
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    config.load(job_file(name), TrainJob if "splits" in content else JobSpec)
    assert packaged_jobs()[name].samefile(path)


def test_a_packaged_job_is_found_by_its_name_its_path_and_the_name_in_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_the_tables_of_the_quick_start_have_its_attacks() -> None:
    job = yaml.safe_load((ROOT / "jobs" / "quickstart.yaml").read_text(encoding="utf-8"))
    names = ["clean", *(attack["name"] for attack in job["attacks"])]
    shown = generated.section_of(generated.QUICKSTART, "phantom: attacks on unet, white-box")
    assert set(re.findall(r"^\| (\w+) (?!.*threat model)", shown, re.MULTILINE)) == set(names)


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


def test_the_table_of_ejection_fractions_is_that_of_its_file() -> None:
    page = generated.EJECTION.read_text(encoding="utf-8")
    assert page == generated.ejection_page(), "run python docs/generated.py"
    assert len(re.findall(r"^\| un", page, flags=re.MULTILINE)) == 2 * (10 + 5), "ten sets and five null rows a network"


def test_tables_of_the_report_on_nnunet_are_those_of_its_files() -> None:
    page = generated.NNUNET.read_text(encoding="utf-8")
    assert page == generated.nnunet_page(), "run python docs/generated.py"
    for name, head in (("attacks", "clean"), ("clean", r"hippocampus_\d+")):
        (rows,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", page, flags=re.DOTALL)
        assert re.search(rf"^\| {head} ", rows, flags=re.MULTILINE)


def test_the_report_on_nnunet_has_every_row_of_its_job() -> None:
    """Each attack on each patient, none of whom taught the network or chose its weights."""
    content = yaml.safe_load((ROOT / "jobs" / generated.NNUNET_JOB).read_text(encoding="utf-8"))
    lists = json.loads(LISTS["Task04_Hippocampus"].read_text(encoding="utf-8"))
    held_back, rows = [Path(line["image"]).name.partition(".")[0] for line in lists["test"]], generated.nnunet_rows()
    sizes = {each["name"]: each["cases"] for each in content["datasets"]}
    for _, of_one in rows.groupby(["source_model", "label"]):
        assert sorted(of_one["case_id"]) in [held_back[:number] for number in sizes.values()]
    asked = {(source, each["name"]) for each in content["attacks"] for source in sources_of(each["sources"])}
    assert {*zip(rows["source_model"], rows["attack"], strict=True)} == asked
    trained = json.loads(generated.NNUNET.with_name("training.json").read_text(encoding="utf-8"))
    assert trained["patients"] == {split: len(lists[split]) for split in ("training", "validation")}


def sources_of(stated: str | list[str]) -> list[str]:
    return [stated] if isinstance(stated, str) else stated


def test_nnunets_own_commands_find_the_clean_dice_of_its_report() -> None:
    """Each patient's with sums in float32; its own float16 turns single voxels, but not the mean."""
    clean = pd.read_csv(generated.NNUNET.with_name("clean.csv"))
    assert (clean["freqbench"] - clean["nnunetv2_float32"]).abs().max() <= 1e-4
    same = clean[clean["voxels_of_float16"] == 0]
    assert (same["freqbench"] - same["nnunetv2"]).abs().max() <= 1e-4
    assert clean["voxels_of_float16"].max() <= 2
    assert abs(clean["freqbench"].mean() - clean["nnunetv2"].mean()) <= 1e-4


def test_sentences_of_the_report_on_nnunet_have_the_sizes_its_files() -> None:
    first, *rest = generated.NNUNET.read_text(encoding="utf-8").split("\n## ")
    assert numbers(first.partition("**In plain words**")[2]) <= numbers("".join(rest))
    trained = json.loads(generated.NNUNET.with_name("training.json").read_text(encoding="utf-8"))
    (network,) = (section for section in rest if section.startswith("The network"))
    stated = [*trained["features_per_stage"], *trained["patch_size"], *trained["patients"].values()]
    stated += [trained[name] for name in ("batch_size", "epochs", "iterations", "seconds_an_epoch", "validation_dice")]
    assert {str(each) for each in stated} <= numbers(network) | numbers(first)


def test_the_picture_of_the_finding_shows_the_sizes_the_report() -> None:
    """The picture is drawn from a table of the report, whose sentences name the same numbers."""
    text = " ".join(finding.REPORT.read_text(encoding="utf-8").split())
    (vafa, sa2), (robust_vafa, robust_sa2) = (
        [[mean for mean, _, _ in finding.bars()[bounds, network]] for bounds in finding.BOUNDS]
        for network in finding.NETWORKS
    )
    assert f"`vafa_opt` leaves {vafa[3]} of a UNet's {vafa[0]} foreground DSC where VAFA leaves {vafa[2]}." in text
    assert f"SA2 leaves {sa2[2]} where 20 steps in its bounds leave {sa2[3]}." in text
    assert f"{robust_sa2[2]} under SA2, but only {robust_sa2[3]} under SA2's threat model, and {robust_vafa[3]}" in text
    panels = [each for axis in finding.picture().axes for each in axis.containers if isinstance(each, BarContainer)]
    for panel, drawn in zip(panels, finding.bars().values(), strict=True):
        _, _, (lines,) = panel.errorbar.lines
        ends = [[each.get_height(), *line[:, 1]] for each, line in zip(panel, lines.get_segments(), strict=True)]
        assert np.allclose(ends, drawn)
        assert all(low < mean < high for mean, low, high in drawn)


def dsc_of(tables: Path) -> dict[tuple[str, str], float]:
    """Foreground DSC that each attack leaves of each network, from a report in Markdown."""
    rows = {}
    for network in ("unet", "unet-vaft"):
        table = generated.section_of(tables, f"phantom: attacks on {network}, white-box").splitlines()
        cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table if line.startswith("|")]
        place = cells[0].index("DSC foreground")
        rows.update({(network, line[0]): float(line[place]) for line in cells[2:]})
    return rows


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_stored_tables_are_what_the_quick_start_gives(tmp_path: Path) -> None:
    """To 0.1 where no step follows another; to two points where steps carry on how a processor rounds.

    FREQBENCH_QUICKSTART names the store of a quick start that has run already.
    """
    bench, out, made = (sys.executable, "bench.py"), os.environ.get("FREQBENCH_QUICKSTART"), tmp_path / "tables.md"
    if not out:
        out = str(tmp_path / "quickstart")
        subprocess.run([*bench, "run", "jobs/quickstart.yaml", "--out", out, "--no-page"], cwd=ROOT, check=True)
    subprocess.run([*bench, "report", out, "--format", "md", "--to", str(made)], cwd=ROOT, check=True)
    again, stored = dsc_of(made), dsc_of(generated.QUICKSTART)
    assert again.keys() == stored.keys()
    single = {row for row in stored if row[1].split()[0] in ("clean", "gn") or "control=" in row[1]}
    assert len(single) == 6
    for rows, by in ((single, 0.1), (stored.keys() - single, 2.0)):
        kept, expected = {row: again[row] for row in rows}, {row: stored[row] for row in rows}
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


def test_the_page_of_jobs_is_made_from_their_files() -> None:
    """The page has a row for each job."""
    page = (ROOT / "jobs" / "README.md").read_text(encoding="utf-8")
    assert page == generated.jobs_page(), "run python docs/generated.py"
    assert sorted(re.findall(r"^\| \[`([\w/]+)`", page, flags=re.MULTILINE)) == sorted(packaged_jobs())


def test_worst_cases_of_packaged_networks_are_those_of_the_leaderboards_entries() -> None:
    assert WORST_CASES.read_text(encoding="utf-8") == generated.worst_cases(), "run python docs/generated.py"


def test_tables_of_the_leaderboard_are_those_of_its_entries() -> None:
    page = generated.BOARD_PAGE.read_text(encoding="utf-8")
    assert page == generated.leaderboard_page(), "run python docs/generated.py"
    networks = sorted(path.parent.name for path in generated.ENTRIES.glob("*/card.yaml"))
    for name in ("board", "matrix"):
        (rows,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", page, flags=re.DOTALL)
        assert sorted(re.findall(r"`([\w.-]+)`", rows)) == networks
    (short,) = re.findall(r"<!-- board -->\n(.*?)<!-- /board -->", TEXT, flags=re.DOTALL)
    assert len(re.findall(r"^\| \d", short, flags=re.MULTILINE)) == 10
    whole, _ = generated.stored_boards()
    assert set(whole.rows["cases"]) == set(whole.rows["patients"]) == {20}
    of_steps = pd.read_csv(generated.ENTRIES / generated.LONGER).groupby(["source_model", "threat_model"])["case_id"]
    assert set(of_steps.nunique()) == {20}
    assert len(of_steps) == 2 * 11


def test_mirrored_networks_keep_what_the_report_on_the_leaderboard_says() -> None:
    rows, page = pd.read_csv(generated.ENTRIES / "mirrored.csv"), generated.BOARD_PAGE.read_text(encoding="utf-8")
    for name, of_network in rows.groupby("source_model"):
        patients = of_network.groupby("case_id")
        assert patients.size().tolist() == [12] * 20, "four sets by three losses"
        worst, clean = 100 * patients["dsc"].min().mean(), 100 * patients["dsc_clean"].first().mean()
        assert f"| `{name}`, mirrored | {clean:.2f} | {worst:.2f} |" in page


def test_tables_of_the_second_board_are_those_of_its_entries() -> None:
    page = generated.ACDC_PAGE.read_text(encoding="utf-8")
    assert page == generated.acdc_page(), "run python docs/generated.py"
    whole, boards = generated.stored_boards(generated.ACDC_ENTRIES)
    assert len(whole.over) == len(boards) == 10
    assert set(whole.rows["patients"]) == {8}
    for entry in generated.stored_entries(generated.ACDC_ENTRIES).values():
        assert entry.card.checkpoint == f"train://acdc/board_train/{entry.name}"
        assert reasons(examine(entry)) == []


def test_rows_of_a_table_have_the_cells_of_its_head() -> None:
    """A `|` that is not escaped begins another cell, and the last one falls off the page."""
    written = [path for path in ROOT.glob("docs/*/*.md") if path.parent.name != "generated"]
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *written):
        lines = page.read_text(encoding="utf-8").splitlines()
        for is_row, rows in itertools.groupby(lines, lambda line: line.startswith("|")):
            cells = {len(re.findall(r"(?<!\\)\|", row)) for row in rows if is_row}
            assert len(cells) <= 1, f"{page}: rows of {cells} bars"


def test_the_reference_says_what_each_parameter_of_an_attack_means() -> None:
    text = "\n".join(generated.attack_pages().values())
    rows = re.findall(r"^\| `(\w+)` +\| [^|]+\|([^\n]*)\|$", text, flags=re.MULTILINE)
    assert len(rows) > len(ATTACKS)
    assert [name for name, meaning in rows if not meaning.strip()] == []
    assert "form of the algorithm: `released`, `released-cosine`, `paper`" in text


@pytest.mark.parametrize("model", [JobSpec, TrainJob])
def test_the_reference_says_what_each_key_of_a_job_means(model: type[JobSpec | TrainJob]) -> None:
    text = dict(generated.key_pages(model, "A job"))["A-job"]
    rows = [[cell.strip() for cell in line.split(" | ")] for line in text.splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows] == [f"| `{name}`" for name in model.model_fields]
    assert all(row[-1].strip("| ") for row in rows)


def test_the_reference_has_every_command() -> None:
    text = generated.command_line()
    headed = re.findall(r"^## `freqbench (\w+)`", text, re.MULTILINE)
    assert [name for names in PANELS.values() for name in names] == headed
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
