"""Prints, as JSON, what a step of an attack and a call once add to a network's bare passes on a GPU.

Operations are counted as they are dispatched on a CPU, where Triton's interpreter takes the place of a GPU: a launch of
a kernel is one operation, which reads and writes its tensors. Bytes are in volumes of logits.
"""

import json
import os
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from triton.runtime import KernelInterface

from freqbench.attacks import ATTACKS, make
from freqbench.ops.fused import kernels, runs_kernels, volume_kernels

BATCH, CLASSES, SIDE = 2, 14, 8
SETTINGS: dict[str, dict[str, Any]] = {
    "pgd": {"eps": 8 / 255},
    "apgd": {"eps": 8 / 255},
    "vafa": {"block": 8},
    "sa2": {"block": 8, "rho": 0.4},
    "vafa_opt": {"block": 8},
    "sa2_opt": {"block": 8, "rho": 0.4},
}
VIEWS = {
    *("view", "reshape", "_reshape_alias", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze"),
    *(
        "squeeze",
        "detach",
        "alias",
        "_unsafe_view",
        "as_strided",
        "split",
        "unbind",
        "unfold",
        "diagonal",
        "lift_fresh",
    ),
    *("empty", "empty_like", "empty_strided", "new_empty", "split_with_sizes", "_local_scalar_dense"),
    *("view_as_real", "view_as_complex", "promote_types"),
}


class Count(TorchDispatchMode):
    """Operations that are no views, and the bytes that they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.bytes = 0

    def add(self, tensors: object) -> None:
        self.operations += 1
        self.bytes += sum(leaf.nbytes for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        if func._schema.name.split("::")[1] not in VIEWS:
            self.add((args, kwargs, returned))
        return returned


class Launches:
    """A kernel whose launches are operations of a count."""

    def __init__(self, kernel: Any, counts: list[Count]) -> None:
        self.kernel, self.counts = kernel, counts

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*given: Any, **options: Any) -> None:
            for count in self.counts:
                count.add(given)
            with _disable_current_modes():  # the interpreter's own operations are none of a GPU's
                self.kernel[grid](*given, **options)

        return launch


def main() -> None:
    counts: list[Count] = []
    for module in (kernels, volume_kernels):
        for name, kernel in [*vars(module).items()]:
            if isinstance(kernel, KernelInterface) and not name.startswith("_"):
                setattr(module, name, Launches(kernel, counts))
    assert runs_kernels("cpu")
    torch.manual_seed(0)
    net = torch.nn.Conv3d(1, CLASSES, 1).eval()
    images, labels = torch.rand(BATCH, 1, *[SIDE] * 3), torch.randint(0, CLASSES, (BATCH, 1, *[SIDE] * 3))
    volume = BATCH * CLASSES * SIDE**3 * 4

    def counted(run: Callable[[], object]) -> Count:
        with Count() as count:
            counts.append(count)
            run()
            counts.clear()
        return count

    def bare() -> None:
        point = images.clone().requires_grad_()
        logits = net(point)
        torch.autograd.grad(logits, point, torch.ones_like(logits))

    passes, added = counted(bare), {}
    for name, parameters in SETTINGS.items():
        attacks = [make(ATTACKS[name], steps=steps, **parameters) for steps in (2, 4)]
        for attack in attacks:
            attack(net, images, labels)  # a process makes matrices and windows once
        few, many = (counted(partial(attack, net, images, labels)) for attack in attacks)
        step, volumes = (many.operations - few.operations) / 2, (many.bytes - few.bytes) / 2
        added[name] = {
            "operations": step - passes.operations,
            "volumes": (volumes - passes.bytes) / volume,
            "operations once": few.operations - 2 * step,
            "volumes once": (few.bytes - 2 * volumes) / volume,
        }
    print(json.dumps(added))


main()
