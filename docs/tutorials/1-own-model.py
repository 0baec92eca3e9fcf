# %% [markdown]
# # Attack your own MONAI model
#
# You have a trained network and a scan with its label map. In this tutorial you wrap both, attack the network, look
# at what happened, and find out how large the attack has to be.
#
# ## A network
#
# Any network will do that maps `[1, C, h, w, d]` to logits `[1, K, h, w, d]`. Here it is MONAI's UNet. So that the
# tutorial needs no training and no download, its weights are those of a small network that freqbench carries; with
# your own you would write `net.load_state_dict(torch.load("best.pt"))`.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel
import pandas as pd
from monai.networks.nets import UNet

import freqbench as fb

net = UNet(
    spatial_dims=3,
    in_channels=1,
    out_channels=6,
    channels=(8, 16, 32, 64),
    strides=(2, 2, 2),
    num_res_units=2,
)
weights = fb.load_model("zoo://phantom/unet").network.net.state_dict()
loaded = net.load_state_dict(weights)

# %% [markdown]
# `load_model` takes a copy of the network. It needs to know one thing more: `roi`, the voxels of the window that the
# network was trained on. Volumes are predicted by MONAI's sliding window with windows of this size. If your network
# wants other intensities than [0, 1], say so with `input={"mean": ..., "std": ...}`.

# %%
model = fb.load_model(net, roi=(64, 64, 32), name="my-unet")
model

# %% [markdown]
# ## A scan
#
# A NIfTI image and its label map are read by `Case.from_nifti`, and prepared as your validation transforms prepare
# them: orientation, voxel spacing, and which intensities become 0 and 1. Two files are written here so that there is
# something to read; the volume is a drawn abdomen in Hounsfield units.

# %%
dataset = fb.load_dataset("phantom", split="test").dataset
scan = dataset.native(dataset.refs()[3])
for name, volume in (("scan", scan.image), ("label", scan.label)):
    nibabel.save(nibabel.Nifti1Image(volume[0].numpy(), scan.affine), f"{name}.nii.gz")

case = fb.Case.from_nifti(
    "scan.nii.gz",
    "label.nii.gz",
    labels=dataset.class_names,
    intensity={"window": [-175, 250]},
    crop_foreground=False,
)
case

# %% [markdown]
# If you have arrays or tensors that are prepared already, `fb.Case(image, label, spacing)` takes them as they are.
#
# ## An attack
#
# SA2 scales the DCT coefficients of the volume by at most `1 + rho` and `1 - rho`. Every attack of freqbench is
# called by its name in this way.

# %%
result = fb.attack(model, case, "sa2", rho=0.2, steps=5)
result.show()

# %% [markdown]
# Scores are those of a record of `freqbench run`: Dice before and after, surface distances, and how far the volume
# moved.

# %%
scores = fb.evaluate(model, case, result, metrics=("dsc", "hd95", "ssim"))
scores

# %% [markdown]
# ## Is it the attack, or the noise?
#
# A drop says little until the same amount of noise has been tried. So we draw a curve: projected gradient descent
# (PGD) and Gaussian noise, both at growing budgets on the [0, 1] intensity scale.

# %%
rows = []
for budget in (2, 4, 8):
    attacks = {"pgd": {"eps": f"{budget}/255", "steps": 4}, "gn": {"std": f"{budget}/255"}}
    for name, parameters in attacks.items():
        made = fb.attack(model, case, name, **parameters)
        found = fb.evaluate(model, case, made, metrics=("dsc",))
        rows.append({"budget (1/255)": budget, "attack": name, "Dice": found["dsc_foreground"]})
curve = pd.DataFrame(rows).pivot(index="budget (1/255)", columns="attack", values="Dice")
axis = curve.plot(marker="o", ylabel="Dice of the organs", ylim=(0, 1), figsize=(5, 3))
axis.axhline(scores["dsc_foreground_clean"], color="grey", linestyle="dashed")
plt.show()

# %% [markdown]
# The noise changes next to nothing, PGD of the same budget does. So it is the attack, not the size of the change.
#
# ## Keep the volume
#
# `save` carries the perturbation back to the scan's own grid and unit, so that the file can be opened beside the
# scan.

# %%
result.save("adversarial.nii.gz")
sorted(path.name for path in Path.cwd().glob("*.nii.gz"))
