"""Prints, as JSON, what a step of an attack and a call once add to a network's bare passes on a GPU.

Operations are counted as they are dispatched on a CPU; where a function is compiled, inductor writes its kernels for an
H100, which this machine need not have, and each counts as one operation that moves what `torch._inductor.metrics` says.
Bytes are in volumes of logits.
"""

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch._inductor.scheduler
import torch.utils._triton
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._inductor import metrics
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime.hints import DeviceProperties
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from freqbench.attacks import ATTACKS, make
from freqbench.ops import compiled

BATCH = 2
CLASSES = 14
SIDE = 8
CARD = torch.device("cuda", 0)
FACTS: dict[str, Any] = {
    "multi_processor_count": 132,
    "major": 9,
    "regs_per_multiprocessor": 65536,
    "max_threads_per_multi_processor": 2048,
    "warp_size": 32,
}
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
    *("squeeze", "detach", "alias", "_unsafe_view", "as_strided", "split", "unbind", "unfold", "diagonal"),
    *("lift_fresh", "empty", "empty_like", "empty_strided", "new_empty", "split_with_sizes", "_local_scalar_dense"),
    *("view_as_real", "view_as_complex", "promote_types"),
}


class Count(TorchDispatchMode):
    """Operations that are no views, and the bytes that they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        if func._schema.name.split("::")[1] not in VIEWS:
            self.operations += 1
            self.bytes += sum(leaf.nbytes for leaf in tree_leaves((args, kwargs, returned)) if isinstance(leaf, Tensor))
        return returned


counts: list[Count] = []


def written(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> tuple[int, int]:
    """Kernels that inductor writes of a graph for the card, and the bytes that they move."""
    with _disable_current_modes():
        graph = copy.deepcopy(graph)
        mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        there = [
            torch.empty_strided(each.shape, each.stride(), dtype=each.dtype, device=CARD)
            if isinstance(each, Tensor)
            else each
            for each in inputs
        ]
    for node in graph.graph.nodes:
        node.meta.pop("val", None)
        if "device" in node.kwargs:
            node.update_kwarg("device", CARD)
    FakeTensorProp(graph, mode).propagate_dont_convert_inputs(*there)
    lowered = GraphLowering(graph, example_inputs=there, shape_env=mode.shape_env)
    with ExitStack() as stack:
        for context in (V.set_graph_handler(lowered), V.set_fake_mode(mode), V.set_debug_handler(DebugContext())):
            stack.enter_context(context)
        stack.enter_context(torch._inductor.config.patch({**compiled.OPTIONS}))
        lowered.run(*there)
        metrics.reset()
        lowered.codegen()
        return metrics.generated_kernel_count, lowered.count_bytes()[0]


def count_kernels(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
    """A graph that computes on the CPU, and is counted as its kernels of the card."""
    kernels, moved = written(graph, inputs)

    def run(given: list[Any]) -> Any:
        for count in counts:
            count.operations += kernels
            count.bytes += moved
        with _disable_current_modes():
            return graph(*given)

    run._boxed_call = True  # type: ignore[attr-defined]
    return run


def compile_for_card(plain: Callable[..., Any]) -> Callable[..., Any]:
    backend = aot_autograd(fw_compiler=count_kernels, bw_compiler=count_kernels, decompositions=select_decomp_table())
    form = torch.compile(plain, backend=backend, dynamic=False, fullgraph=True)

    def chosen(*given: Any, **named: Any) -> Any:
        with _disable_current_modes(), torch._dynamo.config.patch(recompile_limit=compiled.SHAPES):
            return form(*given, **named)

    return chosen


@contextmanager
def card() -> Iterator[None]:
    """A machine that has an H100, as far as inductor asks."""
    facts = SimpleNamespace(minor=0, total_memory=80 << 30, name="H100", shared_memory_per_block_optin=232448, **FACTS)
    named = DeviceProperties(type="cuda", index=0, cc=90, **FACTS)
    with ExitStack() as stack:
        for where, what, value in (
            (DeviceProperties, "create", classmethod(lambda cls, device: named)),
            (torch.cuda, "get_device_properties", lambda device=None: facts),
            (torch.cuda, "get_device_capability", lambda device=None: (9, 0)),
            (torch.cuda, "current_device", lambda: 0),
            (torch._inductor.scheduler, "has_triton", lambda: True),
            (torch.utils._triton, "triton_hash_with_backend", lambda: ""),
            (compiled, "form_of", lambda plain, device, made={}: made.setdefault(plain, compile_for_card(plain))),
            (compiled, "KINDS", ["cpu"]),
        ):
            stack.enter_context(mock.patch.object(where, what, value))
        stack.enter_context(compiled.compiling(compiled.WORTH, {}))
        yield


def main() -> None:
    torch.manual_seed(0)
    net = torch.nn.Conv3d(1, CLASSES, 1).eval()
    images = torch.rand(BATCH, 1, *[SIDE] * 3)
    labels = torch.randint(0, CLASSES, (BATCH, 1, *[SIDE] * 3))
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

    passes = counted(bare)
    added = {}
    for name, parameters in SETTINGS.items():
        attacks = [make(ATTACKS[name], steps=steps, **parameters) for steps in (2, 4)]
        for attack in attacks:
            attack(net, images, labels)  # a process makes matrices and windows once
        few, many = (counted(partial(attack, net, images, labels)) for attack in attacks)
        step = (many.operations - few.operations) / 2
        volumes = (many.bytes - few.bytes) / 2
        added[name] = {
            "operations": step - passes.operations,
            "volumes": (volumes - passes.bytes) / volume,
            "operations once": few.operations - 2 * step,
            "volumes once": (few.bytes - 2 * volumes) / volume,
        }
    print(json.dumps(added))


with card():
    main()
