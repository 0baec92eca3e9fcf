# %% [markdown]
# # Write a new attack in one file
#
# An attack is a class with one method. This tutorial writes one, tries it on a case, and runs it in a job beside the
# attacks of freqbench.
#
# ## The file
#
# The attack here is PGD with momentum: the step follows the sign of a running mean of normalised gradients. All that
# attacks inside an intensity ball share (the budget `eps`, the loss, restarts, the check that the ball is not left)
# comes from `LinfGradientAttack`; `run` is the algorithm, and `run_passes` says how many forward and backward passes
# it takes.

# %%
source = '''
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from freqbench.attacks import LinfGradientAttack, Task


@dataclass(frozen=True, kw_only=True)
class Momentum(LinfGradientAttack):
    """x <- P(x + eps / steps * sign(m)), m <- decay * m + g / mean|g|."""

    name: ClassVar[str] = "momentum"

    steps: int = 4
    decay: float = 0.9

    @property
    def run_passes(self) -> tuple[int, int]:
        return self.steps, self.steps

    def run(self, task: Task) -> Tensor:
        x, mean = task.clean, torch.zeros_like(task.clean)
        for _ in range(self.steps):
            gradient = task.gradient(x)
            size = gradient.abs().mean(dim=(1, 2, 3, 4), keepdim=True)
            mean = self.decay * mean + gradient / size.clamp(min=1e-12)
            x = (x + self.eps / self.steps * mean.sign()).clamp(0, 1)
        return x
'''

# %% [markdown]
# ## Try it
#
# In Python, give the class itself.

# %%
import sys
from pathlib import Path

import freqbench as fb

written = Path("my_attack.py").write_text(source)
sys.path.insert(0, ".")
from my_attack import Momentum

model = fb.load_model("zoo://phantom/unet")
case = fb.load_dataset("phantom", split="test")[0]
result = fb.attack(model, case, Momentum, eps="8/255")
result.show()

# %% [markdown]
# Every attack reports its losses, a column a window. They should rise:

# %%
import matplotlib.pyplot as plt

plt.figure(figsize=(5, 3))
plt.plot(result.losses)
plt.xlabel("step")
plt.ylabel("loss of each window")
plt.show()

# %% [markdown]
# Mistakes are told in one line:

# %%
try:
    fb.attack(model, case, Momentum, eps="8/255", decay_rate=0.5)
except ValueError as error:
    print(error)

# %% [markdown]
# ## Run it in a job
#
# A job names the class by its path, `module:Class`. As that runs the code of the module, it has to be trusted:
# `trust_code: true`, or `--trust-code` on the command line. `random_noise` with the same `eps` is the null row: noise
# of the same size, without which no drop should be believed.

# %%
job = """
name: momentum
datasets:
  - {name: phantom, split: test, cases: 1}
models:
  - {name: unet, checkpoint: "zoo://phantom/unet"}
attacks:
  - {name: "my_attack:Momentum", eps: 8/255, steps: 4}
  - {name: pgd, eps: 8/255, steps: 4}
  - {name: random_noise, linf: 8/255}
metrics: [dsc, ssim]
trust_code: true
"""

# %%
import subprocess

written = Path("job.yaml").write_text(job)
command = [sys.executable, "-m", "freqbench", "run", "job.yaml", "--engine", "serial"]
done = subprocess.run(command, check=True, capture_output=True)

# %% [markdown]
# In a shell that is `freqbench run job.yaml`. Its records are read as a table, one row a cell, case and target:

# %%
records = fb.load_results("runs/momentum")
records[["attack", "dsc_foreground_clean", "dsc_foreground", "ssim", "linf"]].round(3)

# %% [markdown]
# The job's attack and the one in Python are the same to the bit, as both run the same code with the same draws:

# %%
import numpy as np

scores = fb.evaluate(model, case, result, metrics=("dsc",))
(in_job,) = records.loc[records["attack"] == "momentum", "dsc"]
np.testing.assert_equal(scores["dsc"], in_job)
scores["dsc"], in_job

# %% [markdown]
# To give the attack to others, make a package of the file; they name it in their jobs as you do. The contract tests
# that freqbench runs on its own attacks can be run on yours, too.
