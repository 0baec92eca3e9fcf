"""Training of the models that are attacked."""

from freqbench.training.recipe import TrainJob
from freqbench.training.run import TrainResult, finished, identities, train

__all__ = ["TrainJob", "TrainResult", "finished", "identities", "train"]
