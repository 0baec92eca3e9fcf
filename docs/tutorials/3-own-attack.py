# %% [markdown]
# # Write a new attack in one file
#
# An attack is a class with one method. This tutorial writes one, tries it on a case, and runs it in a job beside the
# attacks of freqbench.
#
# ## The file
#
# The attack is PGD with momentum: each step follows the sign of a running mean of normalised gradients.
# `GradientAttack` provides the loss, restarts and the best volumes of a run; `LinfAttack` provides the budget `eps` and
# the check that the volume stays in its intensity ball. `run` is the algorithm. It takes `steps` forward and backward
# passes; an attack that takes another number gives it in `run_passes`.

# %%
source = '''
from dataclasses import dataclass

import torch
from torch import Tensor

from freqbench.attacks import GradientAttack, LinfAttack, Task


@dataclass(frozen=True, kw_only=True)
class Momentum(GradientAttack, LinfAttack):
    """x <- P(x + eps / steps * sign(m)), m <- decay * m + g / mean|g|."""

    name = "momentum"

    steps: int = 4
    decay: float = 0.9

    def run(self, task: Task) -> Tensor:
        x = task.clean
        mean = torch.zeros_like(task.clean)
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
# In Python, pass the class itself.

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
# Every attack reports its losses, one column per window. They should rise:

# %%
import matplotlib.pyplot as plt

plt.figure(figsize=(5, 3))
plt.plot(result.losses)
plt.xlabel("step")
plt.ylabel("loss of each window")
plt.show()

# %% [markdown]
# A mistake gives a one-line error:

# %%
try:
    fb.attack(model, case, Momentum, eps="8/255", decay_rate=0.5)
except ValueError as error:
    print(error)

# %% [markdown]
# ## Run it in a job
#
# A job names the class by its path, `module:Class`. Because this runs the module's code, you must trust it:
# `trust_code: true`, or `--trust-code` on the command line. `random_noise` with `linf` equal to `eps` is the null
# row: noise of the same size, to compare the drop with.

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
# In a shell, type `freqbench run job.yaml`. `load_results` reads the records as a table, one row per cell, case and
# target:

# %%
records = fb.load_results("runs/momentum")
records[["attack", "dsc_foreground_clean", "dsc_foreground", "ssim", "linf"]].round(3)

# %% [markdown]
# The job and the call in Python give bit-identical results, because both run the same code with the same random
# draws:

# %%
import numpy as np

scores = fb.evaluate(model, case, result, metrics=("dsc",))
(in_job,) = records.loc[records["attack"] == "momentum", "dsc"]
np.testing.assert_equal(scores["dsc"], in_job)
scores["dsc"], in_job

# %% [markdown]
# To share the attack, make a package of the file; others name it in their jobs as you do. You can also run
# freqbench's contract tests on your attack.
