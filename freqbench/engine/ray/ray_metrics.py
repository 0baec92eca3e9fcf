"""Counts records, failures and seconds of a run for Ray's metrics."""

from ray.util.metrics import Counter

from freqbench.engine.rows import Outcome


class Meters:
    """Counts per attack, exported by Ray's metrics to Prometheus, for example as `ray_freqbench_records_total`."""

    def __init__(self) -> None:
        self._records = Counter("freqbench_records", "records that were stored, failed ones too", ("attack",))
        self._failures = Counter("freqbench_failures", "failed records, which have no scores", ("attack",))
        self._seconds = Counter(
            "freqbench_device_seconds", "seconds of workers on records, without loading", ("attack",)
        )

    def worked(self, attack: str, seconds: float) -> None:
        """Adds the seconds that a worker spent on a unit."""
        if seconds > 0:  # Ray refuses to add 0
            self._seconds.inc(seconds, {"attack": attack})

    def stored(self, outcome: Outcome) -> None:
        """Counts the records of a unit, failed ones too."""
        for record in outcome.records:
            self._records.inc(1, {"attack": record["attack"]})
            if outcome.failed:
                self._failures.inc(1, {"attack": record["attack"]})
