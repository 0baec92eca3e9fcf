# %% [markdown]
# # Compare how attacks transfer between two models
#
# An attacker who does not know your network attacks another one, and hopes that the volume fools yours too. This
# tutorial makes volumes on two networks and scores each volume on both.

# %%
import matplotlib.pyplot as plt
import pandas as pd

import freqbench as fb

models = [fb.load_model("zoo://phantom/unet"), fb.load_model("zoo://phantom/unetr")]
case = fb.load_dataset("phantom", split="test")[0]
models

# %% [markdown]
# One is a convolutional UNet, the other a UNETR, whose encoder is a transformer. Both were trained on the same kind
# of volumes, and see the same windows.
#
# ## Attack on one, score on both
#
# `attack` follows the gradients of its model. `evaluate` scores the volume on any model: on the attacked model the
# result is called white-box, on another model transfer.

# %%
attacks = {
    "pgd": {"eps": "8/255", "steps": 5},
    "sa2": {"rho": 0.4, "steps": 5, "block": 16},
}
rows = []
for source in models:
    for name, parameters in attacks.items():
        result = fb.attack(source, case, name, **parameters)
        rows += [fb.evaluate(target, case, result, metrics=("dsc",)) for target in models]
records = pd.DataFrame(rows)
records[["attack", "source_model", "target_model", "dsc_foreground_clean", "dsc_foreground"]]

# %% [markdown]
# ## Drops
#
# The drop is the Dice that an attack takes away, in points. Rows of the matrix are the attacked models, columns the
# predicting ones.

# %%
records["drop"] = 100 * (records["dsc_foreground_clean"] - records["dsc_foreground"])
drops = records.pivot_table("drop", ["attack", "source_model"], "target_model")
drops.round(1)

# %%
figure, axes = plt.subplots(1, len(attacks), figsize=(7, 3), layout="constrained")
for axis, name in zip(axes, attacks, strict=True):
    matrix = drops.loc[name]
    image = axis.imshow(matrix, vmin=0, vmax=1.5 * drops.to_numpy().max(), cmap="Blues")
    for row in range(2):
        for column in range(2):
            axis.text(column, row, f"{matrix.iloc[row, column]:.0f}", ha="center", va="center")
    axis.set(title=name, xlabel="predicts", ylabel="attacked")
    axis.set_xticks(range(2), matrix.columns)
    axis.set_yticks(range(2), matrix.index)
figure.colorbar(image, ax=axes, label="drop in points")
plt.show()

# %% [markdown]
# The diagonal shows the white-box drops, the other cells the drops on the other network.
#
# ## Is the difference real?
#
# One case cannot answer this. A job makes the same comparison on as many cases as you have, on all cores or a
# cluster, and `freqbench report` gives intervals over patients:
#
# ```yaml
# name: transfer
# datasets: [{name: phantom, split: test}]
# models:
#   - {name: unet, checkpoint: "zoo://phantom/unet"}
#   - {name: unetr, checkpoint: "zoo://phantom/unetr"}
# attacks:
#   - {name: pgd, eps: 8/255, steps: 5}
#   - {name: sa2, rho: 0.4, steps: 5, block: 16}
# ```
#
# Its records have the same columns. Read them with `fb.load_results("runs/transfer")`; the code above then gives the
# mean over all cases.
