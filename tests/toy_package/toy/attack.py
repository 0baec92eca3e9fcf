from dataclasses import dataclass

from torch import Tensor

from freqbench.attacks import LinfGradientAttack, Task


@dataclass(frozen=True, kw_only=True)
class Walk(LinfGradientAttack):
    name = "walk"
    steps: int = 5

    @property
    def run_passes(self) -> tuple[int, int]:
        return self.steps, self.steps  # forward and backward

    def run(self, task: Task) -> Tensor:
        x = task.clean
        for _ in range(self.steps):
            x = (x + self.eps / self.steps * task.gradient(x).sign()).clamp(0, 1)
        return x
