"""What a run comes to."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a run ended.

    Attributes:
        run_id: of the run; None where there was nothing to do.
        num_done: records that were there before.
        num_new: records that this run stored.
        num_failed: of those, the ones without scores.
        seconds: of the run.
        interrupted: whether it was stopped by the user.
    """

    run_id: str | None
    num_done: int
    num_new: int
    num_failed: int
    seconds: float
    interrupted: bool
