"""Networks that give no gradient, in jobs: an ONNX file and a command, as targets and as sources."""

import sys
import textwrap
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from command_line import Bench
from engine.cases import stored
from models import nifti_tool
from tiny_job import ARGS, ROI, SHAPE, execute, expanded, job, write

from freqbench.core.errors import UserError

CLASS = "sum(value > ordered[k * len(ordered) // 10] for k in range(5, 10))"
TOOL = nifti_tool.script(CLASS)
WHITE: dict[str, Any] = {"name": "white", "arch": "unet", "checkpoint": "random", "args": ARGS, "roi": ROI}
FGSM = {"name": "fgsm", "eps": "8/255"}


def tool(folder: Path, script: str = TOOL, **more: Any) -> dict[str, Any]:
    (folder / "tool.py").write_text(textwrap.dedent(script))
    return {"name": "tool", "command": [sys.executable, str(folder / "tool.py"), "{image}", "{labels}"], **more}


def with_models(*models: dict[str, Any], **changes: Any) -> dict[str, Any]:
    small = {"datasets": [{"name": "phantom", "shape": SHAPE, "cases": 1}], "metrics": ["dsc", "linf"]}
    return job(**{"models": list(models), "attacks": [FGSM], "trust_code": True, **small, **changes})


@pytest.mark.integration
def test_onnx_file_and_command_are_scored_on_white_box_volumes(tmp_path: Path, bench: Bench) -> None:
    """The command sees the file's own grid and unit: the volume goes there and comes back as labels."""
    from models import onnx_file

    onnx = {"name": "onnx", "arch": "onnx", "checkpoint": onnx_file.write(tmp_path / "net.onnx", classes=6), "roi": ROI}
    attacks = [FGSM, {"name": "square", "eps": "8/255", "queries": 2}]
    content = with_models(WHITE, onnx, tool(tmp_path), attacks=attacks)
    out = tmp_path / "out"
    code, _, err = bench("run", write(tmp_path, content), "--out", str(out), "--engine", "serial")
    assert code == 0, err
    rows = stored(out, ("attack", "source_model", "target_model", "status", "dsc_clean"))
    assert {row["status"] for row in rows} == {"ok"}
    pairs = {(row["attack"], row["source_model"], row["target_model"]) for row in rows}
    targets = ("white", "onnx", "tool")
    assert pairs == {*product(["fgsm"], ["white", "onnx"], targets), *product(["square"], targets, targets)}
    assert len({row["dsc_clean"] for row in rows if row["target_model"] == "tool"}) == 1


def test_command_that_fails_makes_failed_row_with_its_last_line(tmp_path: Path) -> None:
    content = with_models(
        tool(tmp_path, "print('out of licences'); raise SystemExit(4)"), attacks=[{"name": "gn", "std": 0.1}]
    )
    execute(content, tmp_path / "out")
    (row,) = stored(tmp_path / "out", ("status", "error"))
    assert row["status"] == "failed"
    assert row["error"].endswith("expected exit code 0, got 4: it last said 'out of licences'")


def test_failing_command_costs_its_own_row_alone(tmp_path: Path) -> None:
    needs_licence = f"import os; assert os.path.exists({str(tmp_path / 'licence')!r})\n{TOOL}"
    content = with_models(WHITE, tool(tmp_path, needs_licence), metrics=["dsc", "linf", "hd95"])
    columns = ("target_model", "status", "dsc", "hd95", "error")

    def rows() -> list[dict[str, Any]]:
        return sorted(stored(tmp_path / "out", columns), key=lambda row: row["target_model"])

    first = execute(content, tmp_path / "out")
    lost, kept = rows()
    assert (first.num_new, first.num_failed, kept["status"], kept["error"]) == (2, 1, "ok", None)
    assert "AssertionError" in lost["error"]
    (tmp_path / "licence").touch()
    assert execute(content, tmp_path / "out").num_new == 1
    (added,) = (row for row in rows() if row["target_model"] == "tool" and row["status"] == "ok")
    assert None not in (kept["hd95"], added["hd95"])


def test_gradient_attacks_leave_out_black_box_and_plan_says_so(tmp_path: Path) -> None:
    _, grid = expanded(with_models(WHITE, tool(tmp_path)))
    assert [cell.source.name for cell in grid.cells] == ["white"]
    assert [line for line in grid.warnings if "tool" in line] == [
        "tool: a black box, as a command says labels alone: attacks without gradients alone run on it, and volumes "
        "made on other models are scored on it",
        "fgsm: not made on tool, a black box: volumes of its other sources are scored on it",
    ]


@pytest.mark.parametrize(
    ("models", "attack"),
    [((), FGSM), ((WHITE,), {**FGSM, "sources": "tool"}), ((), {"name": "universal", "eps": "8/255"})],
)
def test_black_boxes_alone_refused(tmp_path: Path, models: tuple[dict[str, Any], ...], attack: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        expanded(with_models(*models, tool(tmp_path), attacks=[attack]))
    assert f"{attack['name']}: expected a source that gradients go through, got tool, a black box" in str(caught.value)
    assert "take square, rays, bases, gn, random_noise, corruption or a null row" in str(caught.value)


def test_null_rows_run_on_a_black_box(tmp_path: Path) -> None:
    attacks = [{"name": "vafa", "q_max": 20, "control": "random"}, {"name": "rays", "eps": "8/255", "queries": 2}]
    summary = execute(with_models(tool(tmp_path), attacks=attacks), tmp_path / "out")
    assert (summary.num_new, summary.num_failed) == (2, 0)


def test_a_black_box_is_no_surrogate(tmp_path: Path) -> None:
    attacks = [{"name": "bases", "eps": "8/255", "queries": 2, "sources": "white", "surrogates": [["tool"]]}]
    with pytest.raises(UserError, match=r"bases\.surrogates: expected networks with gradients, got tool"):
        expanded(with_models(WHITE, tool(tmp_path), attacks=attacks))


def test_a_map_of_classes_scores_a_tool_of_other_classes(tmp_path: Path) -> None:
    """Eleven labels of the tool become the phantom's six: labels 2k-1 and 2k become class k."""
    halves = {k: [2 * k - 1, 2 * k] for k in range(1, 6)}
    script = nifti_tool.script(f"max(0, 2 * {CLASS} - (value > ordered[-99]))")
    (tmp_path / "eleven").mkdir()
    eleven = {**tool(tmp_path / "eleven", script, classes=11, class_map=halves), "name": "eleven"}
    execute(with_models(WHITE, tool(tmp_path), eleven), tmp_path / "out")
    rows = stored(tmp_path / "out", ("target_model", "status", "dsc", "dsc_clean"))
    scores = {row["target_model"]: (row["status"], row["dsc"], row["dsc_clean"]) for row in rows}
    assert scores["eleven"] == scores["tool"]
    assert scores["tool"][0] == "ok"


def test_an_audit_asks_a_black_box_for_no_gradient(tmp_path: Path) -> None:
    from freqbench.audit.computing import plan_cells
    from freqbench.audit.probes import num_passes

    content = with_models(tool(tmp_path), attacks=[{"name": "gn", "std": 0.1}])
    execute(content, tmp_path / "out")
    spec, own = expanded(content)
    grid = plan_cells(spec, str(tmp_path / "out"), cases=1, eps=8 / 255, say=lambda text: None).grid
    assert {cell.attack.name for cell in grid.cells} == {"square", "random_noise"}
    assert num_passes(own) == 0
