"""Runs attacks in step: one pass of a network serves all of them."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from freqbench.ops.heads import head_of

T = TypeVar("T")


def in_step(network: nn.Module, calls: Sequence[Callable[[nn.Module], T]]) -> list[T | BaseException]:
    """Makes calls that each pass volumes `[B, C, H, W, D]` through the network that they are given.

    Each call has a thread of its own, of which one works at a time. When all that have not ended wait for a pass, their
    volumes go through `network` as one batch, and so do their gradients. To rounding, a call returns what it would
    return alone. An exception takes the place of the result of the call that raised it; where a pass fails, of all
    that waited for it.
    """
    company = _Company(network, len(calls))
    with ThreadPoolExecutor(len(calls), "in-step") as threads:
        try:
            made = [threads.submit(copy_context().run, company.seat, seat, call) for seat, call in enumerate(calls)]
            return [future.exception() or future.result() for future in made]
        except BaseException:
            company.disband()
            raise


@dataclass(frozen=True, eq=False)
class _Batch:
    """A forward pass of volumes of several calls."""

    volumes: Tensor
    logits: Tensor
    wanted: int  # calls that may ask for a gradient


@dataclass(frozen=True, eq=False)
class _Part:
    """Samples of a batch that are one call's: `volumes` with the graph that made them, `logits` without one."""

    batch: _Batch
    samples: slice
    volumes: Tensor
    logits: Tensor


Asked = Tensor | list[tuple[_Part, Tensor]]  # volumes for a forward pass, or gradients of logits for a backward pass


class _Company:
    """The calls that share a network; a thread works only while it holds `turn`."""

    def __init__(self, network: nn.Module, calls: int) -> None:
        self.network = network
        self._turn, self._present = threading.Condition(), calls
        self._asked: dict[int, Asked] = {}
        self._answers: dict[int, Any] = {}
        self._is_over = False

    def seat(self, number: int, call: Callable[[nn.Module], T]) -> T:
        """Makes a call, and leaves."""
        with self._turn:
            try:
                return call(InStep(self, number))
            finally:
                self._present -= 1
                self._serve()

    def ask(self, number: int, asked: Asked) -> Any:
        """Waits until all that are present ask, then returns the answer of this seat."""
        self._asked[number] = asked
        self._serve()
        self._turn.wait_for(lambda: number in self._answers or self._is_over)
        if self._is_over:
            raise RuntimeError("the attacks that went in step were stopped")
        answer = self._answers.pop(number)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def disband(self) -> None:
        """Ends all calls at their next pass."""
        with self._turn:
            self._is_over = True
            self._turn.notify_all()

    def _serve(self) -> None:
        """Answers once all ask: gradients first, so that their seats join the next forward pass."""
        if not self._asked or len(self._asked) < self._present:
            return
        gradients = {seat: each for seat, each in self._asked.items() if isinstance(each, list)}
        asked: dict[int, Any] = dict(sorted((gradients or self._asked).items()))
        self._asked = {seat: each for seat, each in self._asked.items() if seat not in asked}
        try:
            self._answers |= self._gradients(asked) if gradients else self._forward(asked)
        except BaseException as error:  # noqa: BLE001 (each call raises it, as if its own pass had failed)
            self._answers |= dict.fromkeys(asked, error)
        self._turn.notify_all()

    def _forward(self, asked: dict[int, Tensor]) -> dict[int, "_Part"]:
        parts = {}
        for shape in dict.fromkeys(each.shape[1:] for each in asked.values()):  # some attacks resize volumes
            alike = {seat: each for seat, each in asked.items() if each.shape[1:] == shape}
            wanted = sum(each.requires_grad for each in alike.values())
            volumes = torch.cat([each.detach() for each in alike.values()]).requires_grad_(wanted > 0)
            with torch.set_grad_enabled(wanted > 0):
                logits = self.network(volumes)
            batch, first = _Batch(volumes, logits, wanted), 0
            for seat, each in alike.items():
                samples = slice(first, first + len(each))
                own = logits.detach()[samples].requires_grad_(each.requires_grad and logits.requires_grad)
                parts[seat] = _Part(batch, samples, each, own)
                first = samples.stop
        return parts

    @staticmethod
    def _gradients(asked: dict[int, list[tuple["_Part", Tensor]]]) -> dict[int, list[Tensor]]:
        batches: dict[_Batch, list[tuple[_Part, Tensor]]] = {}
        for part, upstream in chain.from_iterable(asked.values()):
            batches.setdefault(part.batch, []).append((part, upstream))
        gradients: dict[_Part, Tensor] = {}
        for batch, pairs in batches.items():
            upstream = torch.zeros_like(batch.logits)
            for part, own in pairs:
                upstream[part.samples] = own
            is_last = len(pairs) == batch.wanted  # otherwise another call may still ask
            (whole,) = torch.autograd.grad(batch.logits, batch.volumes, upstream, retain_graph=not is_last)
            gradients |= {part: whole[part.samples] for part, _ in pairs}
        return {seat: [gradients[part] for part, _ in pairs] for seat, pairs in asked.items()}


class InStep(nn.Module):
    """The network as one of the calls of `in_step` sees it; counts the passes of this call."""

    def __init__(self, company: _Company, number: int) -> None:
        super().__init__()
        self.network = company.network
        self.outputs = head_of(self.network).name
        self.num_forwards = self.num_backwards = 0
        self._company, self._number = company, number
        self._open: list[_Part] = []

    def forward(self, volumes: Tensor) -> Tensor:
        """Returns the logits of volumes, cut from the graph that made these: `gradient` joins the two again."""
        follows = torch.is_grad_enabled() and volumes.requires_grad
        part: _Part = self._company.ask(self._number, volumes if follows else volumes.detach())
        self.num_forwards += 1
        if part.logits.requires_grad:
            self._open.append(part)
        return part.logits

    def gradient(self, value: Tensor, x: Tensor) -> Tensor:
        """Returns the gradient of a value with respect to `x`, through all passes since the last gradient."""
        parts, self._open = self._open, []
        upstream = torch.autograd.grad(value, [part.logits for part in parts], allow_unused=True, retain_graph=True)
        followed = [(part, own) for part, own in zip(parts, upstream, strict=True) if own is not None]
        gradients = self._company.ask(self._number, followed)
        self.num_backwards += len(followed)
        ends, pulls = [value, *(part.volumes for part, _ in followed)], [torch.ones_like(value), *gradients]
        (gradient,) = torch.autograd.grad(ends, x, pulls)
        return gradient
