"""Loads a spec: the network of its source, its weights, its wrapper for attacks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from freqbench.core.errors import CheckpointError, UserError
from freqbench.models.examination import mend
from freqbench.models.sources import source_of
from freqbench.models.spec import ModelSpec
from freqbench.models.wrapper import MeanOfLogits, MeanOfProbabilities, SegmentationModel


def load(spec: ModelSpec, device: torch.device, precision: str = "fp32", compile: bool = False) -> SegmentationModel:
    """Loads the model of a spec onto a device, in eval mode, its parameters without gradients, with the `precision` of
    SegmentationModel; `compile` it for speed, unless no gradient goes through it. Raises CheckpointError
    or UserError if the checkpoint is not the one that was resolved, UserError for an unknown precision or untrusted
    code, StorageRefused or StorageUnavailable if object storage does not deliver it."""
    if spec.members:
        # The mean over mirror images is of the ensemble, not of each member once more.
        alone = {"attack_mirrors": False}
        single = [replace(each, inference=each.inference.model_copy(update=alone)) for each in spec.members]
        members = [load(member, device, precision, compile) for member in single]
        mean = MeanOfLogits if spec.averages == "logits" else MeanOfProbabilities
        return wrap_network(spec, mean(members)).to(device).eval()
    source = source_of(spec.arch)
    stated = spec.checkpoint
    # The copy that was checked is used from here on, even if another file replaces the original meanwhile.
    spec = replace(spec, checkpoint=source.locate(stated, spec.args, spec.checkpoint_sha256))

    def require_content() -> None:
        if not spec.is_random and source.sha256(spec.checkpoint, spec.args) != spec.checkpoint_sha256:
            raise CheckpointError(
                f"{spec.name}: {stated} is not the file that was planned with (sha256 "
                f"{spec.checkpoint_sha256[:12]}...): put that file back or plan anew"
            )

    with naming(stated, spec.checkpoint):
        require_content()
        net = source.network_of(spec)
        if source.weights and not spec.is_random:
            # Strict, and casts float16 weights to the network's float32.
            net.load_state_dict(source.weights(spec, net.state_dict())[0])
        require_content()  # once more, as another file may have come into its place
    net = mend(net, spec.yields, spec.singly, spec.head)
    net.requires_grad_(False)
    compile = compile and spec.black_box is None
    return wrap_network(spec, net, precision=precision, compile=compile, adapter=spec.input).to(device).eval()


@contextmanager
def naming(given: str, local: str) -> Iterator[None]:
    """Renames a checkpoint's local copy in errors to the path that the job has `given`."""
    try:
        yield
    except UserError as error:
        if local in (given, ""):
            raise
        raise type(error)(str(error).replace(local, given)) from None


def wrap_network(spec: ModelSpec, net: nn.Module, **settings: Any) -> SegmentationModel:
    """Wraps a bare network, `net`, by its spec; `settings` are further arguments of SegmentationModel."""
    around: dict[str, Any] = {"inference": spec.inference, "defence": spec.defence, "adaptive": spec.adaptive}
    around |= {"class_map": spec.class_map, "outputs": spec.head}
    model = SegmentationModel(net, spec.roi, **around, **settings)
    model.name = spec.name
    return model
