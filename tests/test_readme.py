"""The README holds what it says: its commands, its tables, its job file."""

import re
from pathlib import Path

import pytest
import yaml
from readme_tables import README, ROOT, with_tables
from tiny import execute

from freqbench.job.schema import JobSpec

TEXT = README.read_text(encoding="utf-8")
YAML = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)


def test_tables_are_those_of_the_code() -> None:
    assert with_tables(TEXT) == TEXT, "run: python tests/readme_tables.py"


def test_both_commands_stand_there_and_ci_runs_them() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip install -e . && python bench.py run jobs/quickstart.yaml" in TEXT
    assert "pip install -e '.[dev]' && pytest" in TEXT
    assert "pip install -e '.[dev]' && pytest" in ci
    assert "python bench.py run jobs/quickstart.yaml" in ci


def test_links_lead_somewhere() -> None:
    assert [target for target in re.findall(r"\]\((?!http)([^)#]+)\)", TEXT) if not (ROOT / target).exists()] == []


def test_the_job_of_ones_own_data_is_a_valid_job_of_ten_lines() -> None:
    job, more, *_ = YAML
    JobSpec.model_validate(yaml.safe_load(job))
    assert len(job.strip().splitlines()) <= 10
    JobSpec.model_validate(yaml.safe_load(job) | yaml.safe_load(more))


def test_the_classes_of_ones_own_are_the_package_of_the_tests() -> None:
    shown = dict(re.findall(r"```python\n# toy/(\w+)\.py\n(.*?)```", TEXT, flags=re.DOTALL))
    toy = ROOT / "tests" / "toy_package" / "toy"
    assert shown == {name: (toy / f"{name}.py").read_text(encoding="utf-8") for name in ("net", "data", "attack")}


def test_the_job_of_ones_own_classes_runs(tmp_path: Path) -> None:
    (text,) = [each for each in YAML if "toy.net:Tiny" in each]
    content = yaml.safe_load(text)
    content["datasets"][0]["cases"], content["resources"] = 1, {"threads": 1}
    summary = execute(content, tmp_path)
    assert (summary.num_new, summary.num_failed) == (2, 0)


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.yaml"), key=str), ids=lambda path: Path(path).stem)
def test_every_job_file_reads(path: Path) -> None:
    from freqbench.core import config
    from freqbench.training import TrainJob

    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    config.load(str(path), TrainJob if "splits" in content else JobSpec)


def test_a_table_of_real_output_stands_before_the_commands() -> None:
    """White-box rows of the quick start's attacks, as its job names them."""
    shown = TEXT[: TEXT.index("## Two commands")]
    job = yaml.safe_load((ROOT / "jobs" / "quickstart.yaml").read_text(encoding="utf-8"))
    assert "| clean" in shown
    assert all(f"| {attack['name']} " in shown for attack in job["attacks"])
