# %% [markdown]
# # Attack your own MONAI model
#
# You have a trained network and a scan with its label map. In this tutorial you wrap both, attack the network,
# inspect the result, and compare the attack with noise at growing budgets.
#
# ## A network
#
# Any network that maps `[1, C, h, w, d]` to logits `[1, K, h, w, d]` will do. This one is MONAI's UNet. Its weights
# come from a small network packaged with freqbench, so the tutorial needs no training and no download; with your own
# checkpoint, write `net.load_state_dict(torch.load("best.pt"))`.

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
# `load_model` takes a copy of the network. It also needs `roi`, the size in voxels of the windows that the network
# was trained on: MONAI's sliding window predicts volumes with windows of this size. If your network expects
# intensities other than [0, 1], add `input={"mean": ..., "std": ...}`.

# %%
model = fb.load_model(net, roi=(64, 64, 32), name="my-unet")
model

# %% [markdown]
# ## A scan
#
# `Case.from_file` reads a NIfTI image and its label map, and prepares them as your validation transforms do:
# orientation, voxel spacing, and the intensities that become 0 and 1. The cell first writes two files to read; the
# volume is a synthetic abdomen in Hounsfield units.

# %%
dataset = fb.load_dataset("phantom", split="test").dataset
scan = dataset.native(dataset.refs()[3])
for name, volume in (("scan", scan.image), ("label", scan.label)):
    nibabel.save(nibabel.Nifti1Image(volume[0].numpy(), scan.affine), f"{name}.nii.gz")

case = fb.Case.from_file(
    "scan.nii.gz",
    "label.nii.gz",
    labels=dataset.class_names,
    intensity={"window": [-175, 250]},
    crop_foreground=False,
)
case

# %% [markdown]
# If your arrays or tensors are already prepared, `fb.Case(image, label, spacing)` takes them as they are.
#
# ## An attack
#
# SA2 multiplies each DCT coefficient of the volume by a factor between `1 - rho` and `1 + rho`. Call every attack of
# freqbench by its name in this way.

# %%
result = fb.attack(model, case, "sa2", rho=0.2, steps=5)
result.show()

# %% [markdown]
# The scores are the columns of a record of `freqbench run`: Dice before and after, surface distances, and the size of
# the change.

# %%
scores = fb.evaluate(model, case, result, metrics=("dsc", "hd95", "ssim"))
scores

# %% [markdown]
# ## Is it the attack, or the noise?
#
# A drop says little until you compare it with the same amount of noise. So we plot two curves: projected gradient
# descent (PGD) and Gaussian noise, both at growing budgets on the [0, 1] intensity scale.

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
# The noise has almost no effect; PGD at the same budget lowers the Dice. So the attack causes the drop, not the size
# of the change.
#
# ## Keep the volume
#
# `save` maps the perturbation back to the scan's own grid and unit, so you can open the file beside the scan.

# %%
result.save("adversarial.nii.gz")
sorted(path.name for path in Path.cwd().glob("*.nii.gz"))
