"""A grid of known durations, 4 models x 8 attacks x 12 cases, and the makespan that no schedule beats."""

from collections.abc import Sequence

from tiny_job import JOB, SHAPE, expanded, job

from freqbench.job.cells import Unit

STEPS = [1, 2, 3, 5, 8, 12, 18, 27]
NUM_MODELS = 4
NUM_CASES = 12


def grid() -> list[Unit]:
    """Its 384 units; one pass is one step."""
    model = JOB["models"][0]
    args = JOB["models"][0]["args"]
    models = [{**model, "name": f"m{i}", "args": args | {"channels": [4, 4 * i]}} for i in range(1, NUM_MODELS + 1)]
    content = job(
        datasets=[{"name": "phantom", "shape": SHAPE, "cases": NUM_CASES}],
        models=models,
        attacks=[{"name": "pgd", "eps": "8/255", "steps": STEPS}],
        targets="source",
        metrics=["dsc"],
    )
    return list(expanded(content)[1].units())


def steps_of(unit: Unit) -> int:
    steps: int = unit.cell.attack.steps  # type: ignore[attr-defined]
    return steps


def lower_bound(seconds: Sequence[float], workers: int, load: float, num_models: int = NUM_MODELS) -> float:
    """Seconds under which no schedule is: each worker loads, and of k x workers + 1 longest units one does k + 1."""
    longest = sorted(seconds, reverse=True)
    whole = (sum(seconds) + load * max(num_models, workers)) / workers
    rounds = range((len(longest) - 1) // workers + 1)
    return max(whole, *(load + sum(longest[k * workers - i] for i in range(k + 1)) for k in rounds))
