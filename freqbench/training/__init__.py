"""Trains models to attack: clean, adversarially, and with frequency consistency."""

from freqbench.job.training import TrainJob
from freqbench.training.run import TrainResult, finished_result, train

__all__ = ["TrainJob", "TrainResult", "finished_result", "train"]
