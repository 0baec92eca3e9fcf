"""Counters for whoever watches a cluster: Ray shows them to Prometheus beside its own, where its metrics are on."""

from ray.util.metrics import Counter

from freqbench.engine.rows import Outcome

TAGS = ("attack",)


class Meters:
    """Records, failures and device seconds by attack, of this driver; Prometheus sees `ray_freqbench_records_total`."""

    def __init__(self) -> None:
        self._records = Counter("freqbench_records", "records that came through, failed ones too", TAGS)
        self._failures = Counter("freqbench_failures", "of those, the ones without scores", TAGS)
        self._seconds = Counter("freqbench_device_seconds", "seconds of workers on them, without loading", TAGS)

    def worked(self, attack: str, seconds: float) -> None:
        """A worker took so long over a unit of an attack."""
        if seconds > 0:  # Ray refuses to count nothing
            self._seconds.inc(seconds, {"attack": attack})

    def stored(self, outcome: Outcome) -> None:
        """An outcome goes to whoever stores it."""
        for record in outcome.records:
            self._records.inc(1, {"attack": record["attack"]})
            if outcome.failed:
                self._failures.inc(1, {"attack": record["attack"]})
