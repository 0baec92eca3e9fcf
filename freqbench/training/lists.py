"""The lists of cases of a training job: learned from, chosen by, and measured on."""

from collections.abc import Mapping, Sequence

from freqbench.core.errors import UserError
from freqbench.core.types import CaseRef
from freqbench.data import Dataset
from freqbench.job.schema import build_dataset
from freqbench.training.recipe import TrainJob

ROLES = ("train", "select", "test")


def job_lists(job: TrainJob) -> dict[str, Dataset]:
    """The dataset that a job names, once for each role, with the role's list as its split."""
    if "name" not in job.dataset:
        raise UserError(f"{job.name}: dataset.name: required, but not given")
    where = f"{job.name}: dataset"
    return {role: build_dataset({**job.dataset, "split": getattr(job.splits, role)}, where) for role in ROLES}


def refuse_overlap(job: TrainJob, refs: Mapping[str, Sequence[CaseRef]]) -> None:
    """Refuse lists that share a case or a patient; `selected_on_test` allows it to the last two.

    Raises:
        UserError: naming the lists and the first case that they share, or a list that is empty.
    """
    for role in ROLES:
        if not refs[role]:
            raise UserError(f"{job.name}: splits.{role}: expected cases in {getattr(job.splits, role)!r}, got none")
    for first, second in (("train", "select"), ("train", "test"), ("select", "test")):
        if (first, second) == ("select", "test") and job.splits.selected_on_test:
            continue
        known = {ref.fingerprint for ref in refs[first]} | {ref.patient_id for ref in refs[first]}
        shared = [ref.case_id for ref in refs[second] if ref.fingerprint in known or ref.patient_id in known]
        if shared:
            raise UserError(
                f"{job.name}: splits: expected lists without a case or patient in common, got {len(shared)} in {first} "
                f"and {second} (first: {shared[0]}): what was learned from or chosen by cannot test; change the lists"
                + (", or say selected_on_test: true" if second == "test" and first == "select" else "")
            )
