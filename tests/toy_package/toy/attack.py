from dataclasses import dataclass

from torch import Tensor

from freqbench.attacks import GradientAttack, LinfAttack, Task


@dataclass(frozen=True, kw_only=True)
class Walk(GradientAttack, LinfAttack):
    name = "walk"
    steps: int = 5

    def run(self, task: Task) -> Tensor:
        x = task.clean
        for _ in range(self.steps):
            x = (x + self.eps / self.steps * task.gradient(x).sign()).clamp(0, 1)
        return x
