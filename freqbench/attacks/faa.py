"""FAA, rebuilt without its code: bands of another amplitude.  After Huang et al., ICCV 2021, arXiv:2106.02874."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor

from freqbench.attacks.core.calls import Best
from freqbench.attacks.core.gradient import GradientAttack
from freqbench.attacks.core.parameters import LOGIT_STEP, PARAMETERS, RANDOM_CONTROL
from freqbench.attacks.core.task import Task

HELD = (1 / 16, 1 / 2)  # shares of the highest frequency: between them, J penalises a change

AXES = (2, 3, 4)

Mix = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class FAA(GradientAttack):
    r"""Learns which few bands of the Fourier amplitude to take from a reference volume.

    With A and phi the amplitude and phase of the clean window x, A' the amplitude of the reference, N `bands`, gates
    g_n in {0, 1} of which at most `portion` N, rounded down, are 1, S the bands between 1/16 and 1/2 of the highest
    frequency, and lambda the `reconstruction_weight`:

    .. math:: a = \mathrm{clamp}\Bigl(\mathcal F^{-1} \sum_n [(1 - g_n) A_n + g_n A'_n] e^{i \phi}, 0, 1\Bigr), \qquad
              J = L(f(a), y) - \lambda \frac{\sum_{n \in S} g_n |A'_n - A_n|}{\sum_{n \in S} A_n}

    Each gate is drawn from a Gumbel softmax over closed and open, at temperature 1. With l its logit and s a standard
    logistic draw, a gate is open if l + s is above 0 and among the highest. The gradient takes the gate for sigmoid(l +
    s) (straight-through). From l = 0, a step is l <- l + step_size * dJ/dl / `max |dJ/dl|`, with the maximum of each
    sample. A run ends with the gates of l, without a draw. Every channel has its own gates, at most `portion` N of them
    open; the sums of J run over all channels. `state`: the gates of the result, 0 or 1, `[B, C N]`, channel after
    channel.

    The reference is an argument of the call: `reference`, volumes in [0, 1] of the images' shape. A job takes another
    case of the dataset's split, which the seed and the case determine (`Dataset.other`), resizes it to the case and
    cuts it into the same windows.

    `control: random`: a null row, the gates of the first draw without any step.

    `start`: the uniform draws that make s, `[B, steps, C N]` in (0, 1).

    **Fact.** SA2's comparison (Hanif et al., ISBI 2025) has a row "FAA" without citation, parameters or code.
    **Guess**: it means the Fourier adversarial attacking of Huang et al., run as a separate attack. In their paper it
    is part of training for domain adaptation: a small network makes an image's gates, and the reference is an image of
    the target domain. **Taken from their code** (jxhuang0508/RDA): amplitudes are exchanged and the phase is kept; 32
    square rings are the bands, of which a tenth may open (there of 32 rings for each of three colour channels); Gumbel
    gates with two states at temperature 1; the penalised bands; the reference is resized to the image. **Chosen here**:
    three dimensions; gates learned for each window by normalised straight-through gradients; `portion` as the most that
    may open, not the exact number; lambda 1, on a relative change; the clamp; the best of all gates that were
    evaluated; steps and step size. Its rows do not reproduce those of SA2.
    """

    name = "faa"
    threat_model = "fourier-bands"
    budget_name = "portion"
    variants = ("reconstruction",)
    parameters = PARAMETERS | {"control": RANDOM_CONTROL, "step_size": LOGIT_STEP}
    needs_reference = True
    is_stochastic = True
    keeps_best = True

    portion: float = 0.1
    bands: int = 32
    steps: int = 20
    step_size: float = 1.0
    reconstruction_weight: float = 1.0
    control: str = "none"
    keep: str = "best"
    variant: str = "reconstruction"

    @property
    def max_open(self) -> int:
        """Largest number of open gates per channel."""
        return int(self.portion * self.bands + 1e-9)

    @property
    def run_passes(self) -> tuple[int, int]:
        """One pass of each kind per step; with `keep: best` one more forward pass, to value the last gates."""
        forwards, backwards = super().run_passes
        return forwards + (1 if forwards and self.keep == "best" else 0), backwards

    def excess(self, clean: Tensor, adversarial: Tensor, state: Tensor | None) -> float:
        """Returns the number of open gates of `state` beyond the limit, for the channel with the most; `clean` and
        `adversarial` volumes are not needed."""
        return float("inf") if state is None else float(self._by_channel(state).sum(dim=2).max()) - self.max_open

    def run(self, task: Task) -> tuple[Tensor, Tensor]:
        """Runs the algorithm, or makes the null row; returns the volumes a and their gates."""
        mix = self._mixer(task)
        s = self._noise(task)
        if self.control != "none":
            gates = self._gates(s[:, 0])
            return mix(gates)[0], gates

        weight = self.reconstruction_weight
        best = Best()
        scores = torch.zeros_like(s[:, 0])  # l

        def j(scores: Tensor, s: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
            """Returns J, `[B]`, and beside it what `Best` keeps: the value to compare by, the volumes and the gates."""
            soft = torch.sigmoid(scores + s)
            gates = self._gates((scores + s).detach())
            a, change = mix(gates + (soft - soft.detach()))
            logits = task.logits(a)
            loss = task.objective.raised(logits)
            price = weight * change
            return loss - price, (task.objective.compared(logits, loss) - price.detach(), a.detach(), gates)

        for i in range(self.steps):
            g, evaluated = task.gradient_and(scores, partial(j, s=s[:, i]))  # dJ/dl
            if self.keep == "best":
                best.offer(*evaluated)
            largest = g.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(g.dtype).tiny)
            scores = scores + self.step_size * g / largest

        gates = self._gates(scores)
        a, change = mix(gates)
        if self.keep == "best":
            best.offer(task.look(a) - weight * change, a, gates)
            a, gates = best.kept
        return a, gates

    def _gates(self, scores: Tensor) -> Tensor:
        """Returns the gates, `[B, C N]`: 1 if a score is above 0 and among the highest of its channel, else 0."""
        by_channel = self._by_channel(scores)
        highest = by_channel.topk(self.max_open, dim=2).indices
        among = torch.zeros_like(by_channel).scatter(2, highest, 1.0)
        return among.flatten(1) * (scores > 0)

    def _by_channel(self, values: Tensor) -> Tensor:
        return values.reshape(len(values), -1, self.bands)

    def _noise(self, task: Task) -> Tensor:
        """Returns standard logistic draws, each the difference of two Gumbel draws, `[B, steps, C N]`."""
        layout = (self.steps, task.clean.shape[1] * self.bands)
        start = task.given_start(layout)
        uniform = task.draw(torch.rand, layout) if start is None else start
        return torch.logit(uniform, eps=1e-6)

    def _mixer(self, task: Task) -> Mix:
        """Returns a function from gates to volumes and the relative change of their HELD bands, `[B]`."""
        clean = task.clean
        shape = task.clean.shape[2:]
        least = torch.finfo(clean.dtype).tiny
        bands = fourier_bands(shape, self.bands).to(clean.device)
        swap, amplitude = amplitude_swap(clean, cast(Tensor, task.given.reference))
        share = torch.arange(self.bands, device=clean.device) / self.bands
        held = (share >= HELD[0]) & (share < HELD[1])
        total = (band_sums(amplitude, bands, self.bands) * held).sum(dim=(1, 2), keepdim=True)
        cost = (band_sums(swap.abs(), bands, self.bands) * held / total.clamp(min=least)).flatten(1)

        def mix(gates: Tensor) -> tuple[Tensor, Tensor]:
            open_bands = self._by_channel(gates).index_select(2, bands.flatten()).reshape(swap.shape)
            images = (clean + torch.fft.irfftn(open_bands * swap, s=shape, dim=AXES)).clamp(0, 1)
            return images, (gates * cost).sum(dim=1)

        return mix


def fourier_bands(shape: Sequence[int], count: int) -> Tensor:
    """Returns the band, 0..count - 1, of every coefficient of `torch.fft.rfftn` of a window of `shape` `H, W, D`: `[H,
    W, D // 2 + 1]`.

    Bands are nested boxes, band 0 at the mean. A coefficient's radius is the largest of its frequencies on the three
    axes, as shares of an axis's highest frequency. The bands divide [0, 1] evenly; some may be empty.
    """
    h, w, d = shape
    axes = torch.fft.fftfreq(h).abs(), torch.fft.fftfreq(w).abs(), torch.fft.rfftfreq(d)
    radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).amax(dim=0) * 2
    return (radius * count + 1e-6).long().clamp(max=count - 1)


def band_sums(values: Tensor, bands: Tensor, count: int) -> Tensor:
    """Sums values of coefficients `[B, C, H, W, D // 2 + 1]` over each of the `bands` of each channel, `[B, C,
    count]`."""
    flat = values.flatten(2)
    return flat.new_zeros(*flat.shape[:2], count).index_add(2, bands.flatten(), flat)


def amplitude_swap(clean: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the change of volumes' spectra when they take the amplitude of `reference` volumes, in their shape, and
    keep their own phase.

    The change is complex `[B, C, H, W, D // 2 + 1]`; the clean amplitudes are returned with it. A coefficient that is
    zero in the clean volume, up to rounding, has no phase and stays zero.
    """
    spectrum = torch.fft.rfftn(clean, dim=AXES)
    other = torch.fft.rfftn(reference, dim=AXES).abs()
    amplitude = spectrum.abs()
    rounding = 10 * torch.finfo(clean.dtype).eps * amplitude.amax(dim=AXES, keepdim=True)
    return torch.where(amplitude > rounding, (other - amplitude) * spectrum.sgn(), 0.0), amplitude
