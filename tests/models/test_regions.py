"""Networks of regions that overlap: one sigmoid output a region, from the window to the codes of a volume."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from freqbench.core.config import validate
from freqbench.core.errors import UserError
from freqbench.core.types import Outputs
from freqbench.models import Inference, ModelEntry, ModelSpec, SegmentationModel, Wanted, load, prediction, resolve
from freqbench.models.examination import examine, mend
from freqbench.models.inference import SlidingWindowModel
from freqbench.models.resolving import require_head, resolve_ensemble
from freqbench.models.sources.source import Facts
from freqbench.models.wrapper import MeanOfProbabilities
from freqbench.ops.classes import Classes
from freqbench.ops.regions import codes_of

ROI = (8, 8, 8)
ENTRY: dict[str, Any] = {
    "name": "m",
    "arch": "unet",
    "checkpoint": "random",
    "args": {"channels": [4, 8], "strides": [2], "num_res_units": 0},
    "roi": ROI,
    "outputs": "sigmoid",
}


def model(seed: int = 1, **settings: Any) -> SegmentationModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Conv3d(1, 2, 3, padding=1).requires_grad_(False)
    return SegmentationModel(net, ROI, outputs="sigmoid", **settings).eval()


def volume(side: int = 8) -> Tensor:
    return torch.rand(1, 1, side, side, side, generator=torch.Generator().manual_seed(3))


def resolved(num_classes: int = 3, **changes: Any) -> ModelSpec:
    return resolve(validate(ENTRY | changes, ModelEntry, "job"), num_classes)


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_windows_and_mirrors_are_averaged_as_the_toolchain(average: str) -> None:
    net = model(inference=Inference(average=average, mirror="HD", overlap=0.0))
    image = volume()
    taken = torch.sigmoid if average == "probabilities" else (lambda logits: logits)
    flips = [(), (2,), (4,), (2, 4)]
    mean = sum(taken(net(image.flip(axes)).flip(axes)) for axes in flips) / 4
    assert torch.equal(prediction(net, image[0]).labels, codes_of(mean[0] > (0.5 if average == "probabilities" else 0)))


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_an_attacker_follows_the_stitched_prediction(average: str) -> None:
    net = model(inference=Inference(average=average))
    image = volume(12)
    sliding = SlidingWindowModel(net)
    logits = sliding(image)
    assert sliding.outputs == "sigmoid"
    assert torch.equal(codes_of(logits[0] > 0), prediction(net, image[0]).labels)


def test_an_ensemble_has_the_mean_of_the_sigmoids() -> None:
    members = [model(1), model(2)]
    image = volume()
    mean = torch.stack([member(image).sigmoid() for member in members]).mean(dim=0)
    assert torch.allclose(MeanOfProbabilities(members)(image).sigmoid(), mean, atol=1e-6)
    spec = resolve_ensemble(
        validate({"name": "e", "ensemble": ["a", "b"]}, ModelEntry, "job"),
        [resolved(), resolved(checkpoint="random:1")],
    )
    assert (spec.head, spec.num_outputs) == ("sigmoid", 2)


def test_confidence_is_that_of_the_least_sure_region() -> None:
    net = model()
    image = volume()
    p = net(image)[0].sigmoid()
    confidence = prediction(net, image[0], wanted=Wanted(with_confidence=True)).confidence
    assert confidence is not None
    assert torch.allclose(confidence, torch.maximum(p, 1 - p).amin(dim=0))


def test_network_has_output_for_each_class_but_background() -> None:
    spec = resolved()
    exclusive = resolved(outputs="softmax")
    assert (spec.num_outputs, exclusive.num_outputs) == (2, 3)
    assert spec.model_id != exclusive.model_id == resolved(outputs=None).model_id


def test_probabilities_of_regions_become_their_logits() -> None:
    net = nn.Sequential(nn.Conv3d(1, 2, 1), nn.Sigmoid())
    result = examine(net, torch.cat([volume(), volume().square()]), 2, "sigmoid")
    assert (result.fault, result.yields) == (None, "probabilities")
    image = volume()
    assert torch.allclose(mend(net, result.yields, singly=False, head="sigmoid")(image), net[0](image), atol=1e-5)
    fault = examine(net, torch.cat([volume(), volume().square()]), 2).fault
    assert fault is not None
    assert "set outputs: sigmoid for a dataset of regions" in fault


def test_regions_of_a_network_are_those_that_the_class_map_names() -> None:
    """The third and first output of four, in the dataset's order; others are left out."""
    spec = resolved(classes=4, class_map={2: [1], 1: [3]})
    assert (spec.num_classes, spec.num_outputs) == (3, 4)
    whole = load(resolved(num_classes=5), torch.device("cpu"))
    assert torch.equal(load(spec, torch.device("cpu"))(volume()), whole(volume())[:, [2, 0]])
    assert len({spec.model_id, resolved(classes=4, class_map={1: [1], 2: [3]}).model_id, resolved().model_id}) == 3


@pytest.mark.parametrize(
    ("stated", "of_file", "has_regions", "line"),
    [
        (None, None, True, "m: expected outputs: sigmoid for the regions of d, got softmax: set outputs: sigmoid of"),
        (
            "sigmoid",
            None,
            False,
            "expected outputs: softmax for the exclusive classes of d, got sigmoid: state regions",
        ),
        (None, "sigmoid", False, "got sigmoid: state regions of d, one for each output"),
        ("softmax", "sigmoid", True, "got softmax: leave outputs out, as net.pt states sigmoid"),
    ],
)
def test_network_of_other_kind(stated: Outputs | None, of_file: Outputs | None, has_regions: bool, line: str) -> None:
    entry = validate(ENTRY | {"outputs": stated}, ModelEntry, "job")
    facts = Facts(arch="unet", outputs=of_file, path="net.pt")
    with pytest.raises(UserError, match=line):
        require_head(entry, facts, "d", Classes(names=(), overlap=has_regions))
    require_head(entry, facts, "d", Classes(names=(), overlap=not has_regions))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"classes": 3}, "m: classes: expected the 2 of the regions, got 3: set classes: 3 and class_map"),
        ({"classes": 1}, "m: classes: expected the 2 of the regions, got 1: state those regions of the dataset"),
        (
            {"classes": 3, "class_map": {1: [0], 2: [1]}},
            "1: expected each region of the network once, but 0 is not in 1 to 3",
        ),
        (
            {"classes": 3, "class_map": {1: [4], 2: [1]}},
            "1: expected each region of the network once, but 4 is not in 1 to 3",
        ),
        ({"classes": 3, "class_map": {1: [2], 2: [2]}}, "2: expected each region of the network once, but 2 was there"),
        (
            {"classes": 3, "class_map": {1: [1, 2], 2: [3]}},
            "1: expected one region of the network, as regions cannot be",
        ),
        ({"classes": 3, "class_map": {0: [1], 2: [3]}}, "expected regions of the dataset, 1 to 2, got 0"),
        ({"classes": 3, "class_map": {2: [3]}}, "expected each region of the dataset, got none for 1: give its region"),
        (
            {"outputs": None, "classes": 1},
            "classes: expected at least 2, background included, got 1: for one region, set",
        ),
        (
            {"defence": {"name": "randomized_smoothing", "sigma": 0.1}},
            "no randomized_smoothing around a network of regions",
        ),
    ],
)
def test_settings_without_a_meaning_for_regions_are_refused(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        resolved(**changes)
