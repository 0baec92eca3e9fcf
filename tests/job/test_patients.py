"""Plan says how many patients it sees where cases share one, and warns of names that look as if they did."""

from pathlib import Path

import pytest
import yaml
from command_line import bench


@pytest.mark.parametrize(
    ("patient", "shown"), [("phantom_20", "ph: 3 cases of 1 patient, over whom intervals are taken"), (None, None)]
)
def test_plan_counts_patients_of_several_cases(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], patient: str | None, shown: str | None
) -> None:
    content = {
        "name": "p",
        "datasets": [{"name": "ph", "loader": "phantom", "cases": 3, "patient": patient}],
        "models": [{"name": "u", "checkpoint": "zoo://phantom/unet"}],
        "attacks": [{"name": "fgsm", "eps": ["4/255"]}],
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(content))
    code, out, err = bench(capsys, "plan", str(tmp_path / "job.yaml"), "--out", str(tmp_path / "out"))
    assert code == 0, err
    assert ("over whom intervals are taken" in out) == (shown is not None)
    assert (shown or "") in out
