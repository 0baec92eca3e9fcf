"""Counts what a run does for Ray's metrics."""

from ray.util.metrics import Counter

from freqbench.engine.rows import Outcome


class Meters:
    """Counts by attack, which Ray shows to Prometheus where its metrics are on, as `ray_freqbench_records_total`."""

    def __init__(self) -> None:
        self._records = Counter("freqbench_records", "records that came through, failed ones too", ("attack",))
        self._failures = Counter("freqbench_failures", "of those, the ones without scores", ("attack",))
        self._seconds = Counter("freqbench_device_seconds", "seconds of workers on them, without loading", ("attack",))

    def worked(self, attack: str, seconds: float) -> None:
        """A worker spent so long on a unit."""
        if seconds > 0:  # Ray refuses to count nothing
            self._seconds.inc(seconds, {"attack": attack})

    def stored(self, outcome: Outcome) -> None:
        """The records of a unit came through."""
        for record in outcome.records:
            self._records.inc(1, {"attack": record["attack"]})
            if outcome.failed:
                self._failures.inc(1, {"attack": record["attack"]})
