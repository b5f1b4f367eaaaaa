"""The forwards of a bank between their recording and the optimizer's step.

A forward counts in the statistics of a step if and only if its gradient counts in the step:

    forward              begin      compute the sums over the inputs, but do not add them yet
    backward             see        keep the gradient of the layer's output
                         confirm    the weight has received its gradient, so the forward counts
    next forward, step   close      add the sums to the statistics
    zero_grad            discard    forget the forwards whose gradients are discarded
    step                 drop       forget the forwards whose gradients have been set to None

A forward without a backward (an evaluation without `no_grad`, a teacher model, an unused loss) is
never confirmed. Neither is a forward whose backward does not reach the weights (`autograd.grad`
for a saliency map or a gradient penalty). Two backwards through one forward count once: the gradients
of its output are added before they are squared.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from precond.algorithm import Needs
from precond.layers import Layer
from precond.parts.statistics import Additions


class Statistics(Protocol):
    """The statistics that forwards are added to: a bank."""

    def accumulate(
        self,
        layer: Layer,
        x: Tensor | None,
        gradient: Tensor | None,
        *,
        examples: int | None = None,
        backward: int = -1,
        additions: Additions | None = None,
    ) -> None:
        """Add an input, an output gradient or both; append functions to `additions` instead."""

    def discard(self, layers: Iterable[Layer]) -> None:
        """Discard what was added for some layers since the last step."""


class Forward:
    """One recorded forward of a layer.

    Args:
        layer: The layer.
        step: Number of the optimizer's step in which it runs.
        x: The input, or None if it is not needed after the forward.
        keep: Keep the gradients of the output.

    Attributes:
        additions: Functions that add the sums over the inputs to the statistics.
        gradient: Gradient of the output, summed over the backwards that have reached the weight.
        backward: Number of the last backward.
        confirmed: True if a backward has reached the weight.
        closed: True if the statistics contain the forward.
    """

    def __init__(self, layer: Layer, step: int, x: Tensor | None, keep: bool):
        self.layer, self.step, self._keep = layer, step, keep
        self._x, self._version = x, None if x is None else x._version
        self.additions: Additions = []
        self.gradient: Tensor | None = None
        self.backward = -1
        self.confirmed = self.closed = False
        self._seen = False  # True if the last backward is not confirmed yet
        self._latest: Tensor | None = None

    def see(self, gradient: Tensor, backward: int) -> None:
        """Keep a gradient of the output until `confirm`.

        Gradients of the same backward are added. An unconfirmed gradient of an earlier backward is
        replaced.
        """
        if self._keep:
            same = self._latest is not None and backward == self.backward
            self._latest = self._latest + gradient if same else gradient  # type: ignore[operator]
        self.backward, self._seen = backward, True

    def confirm(self) -> None:
        """Count the gradient of the last backward."""
        if self._latest is not None:
            total = self._latest if self.gradient is None else self.gradient + self._latest
            self.gradient, self._latest = total, None
        self.confirmed, self._seen = self.confirmed or self._seen, False

    def discard(self) -> None:
        """Forget the gradients. A later backward through this forward may count again."""
        self.gradient = self._latest = None
        self.confirmed = self._seen = False

    def has_input(self, x: Tensor) -> bool:
        """Return True if `x` is the input of this forward."""
        return self._x is not None and self._x.data_ptr() == x.data_ptr()

    @property
    def x(self) -> Tensor | None:
        """The input, or None if it is not needed after the forward."""
        if self._x is not None and self._x._version != self._version:
            raise RuntimeError(
                f"{self.layer.name}: its input was changed in place after the forward, so the "
                "gradients of single examples cannot be computed. Use the out-of-place operation"
            )
        return self._x


class Forwards:
    """The forwards of one bank that its statistics do not contain yet.

    Args:
        statistics: The bank.
        needs: The signals that its algorithm needs.
        wait: Add a forward after its backward, and only if its gradient still exists. False adds
            everything immediately, for an observer without an optimizer.
        same_examples: True if the calls of a layer in one backward have the same examples.

    Attributes:
        added: Names of the layers of which a forward was added since the last step.
        empty: True if a forward without examples ran since the last step, as in an expert to which
            no example was sent. It adds nothing.
    """

    def __init__(self, statistics: Statistics, needs: Needs, wait: bool, same_examples: bool):
        self._statistics, self._needs, self._wait = statistics, needs, wait
        self._keep = needs is not Needs.INPUTS  # the statistics need output gradients
        self._open: dict[str, list[Forward]] = {}  # by layer, in the order of the backwards
        self._separate = itertools.count(-2, -1)  # numbers for calls with other examples
        self._step = 0
        self.same_examples = same_examples
        self.added: set[str] = set()
        self.empty = False

    @property
    def ran(self) -> bool:
        """True if a forward was added, or had no examples, since the last step."""
        return self.empty or bool(self.added)

    def begin(self, layer: Layer, x: Tensor) -> Forward:
        """Close the earlier forwards of the layer, and start a new one."""
        self._close(layer)
        pairs = self._needs is Needs.PAIRS
        forward = Forward(layer, self._step, x.detach() if pairs else None, self._keep)
        if not pairs:
            additions = forward.additions if self._wait else None
            self._statistics.accumulate(layer, x, None, additions=additions)
        if not self._wait:
            self.added.add(layer.name)
        return forward

    def begin_in_backward(self, layer: Layer, x: Tensor) -> Forward:
        """Return a forward of a compiled graph; the graph reports it only in the backward.

        A second backward with the same input belongs to the same forward.
        """
        backward = torch._C._current_graph_task_id()
        for forward in self._open.get(layer.name, []):
            if forward.backward != backward and forward.has_input(x):
                return forward
        if any(forward.backward != backward for forward in self._open.get(layer.name, [])):
            self._close(layer)
        forward = Forward(layer, self._step, x, self._keep)
        if self._needs is not Needs.PAIRS:
            additions = forward.additions if self._wait else None
            self._statistics.accumulate(layer, x, None, additions=additions)
        return forward

    def see(self, forward: Forward, gradient: Tensor) -> None:
        """Keep the gradient of a forward's output, in a backward.

        Raises:
            RuntimeError: An earlier backward through this forward was already added in this step.
        """
        backward, layer = torch._C._current_graph_task_id(), forward.layer
        if not self._wait:
            forward.see(gradient, backward)
            forward.confirm()
            self._add([forward])
            return
        if forward.closed:
            if self._keep and forward.step == self._step:
                raise RuntimeError(
                    f"{layer.name}: a second backward ran through a forward after the layer was "
                    "called again. Add the losses and call backward once, or call both backwards "
                    "before the next call"
                )
            return
        if layer.weight.grad is None:
            self._discard_earlier(layer, backward)
        forward.see(gradient, backward)
        forwards = self._open.setdefault(layer.name, [])
        if forward not in forwards:
            forwards.append(forward)

    def confirm(self, layer: Layer) -> None:
        """Count the forwards of a layer that the running backward goes through."""
        backward = torch._C._current_graph_task_id()
        for forward in self._open.get(layer.name, []):
            if forward.backward == backward:
                forward.confirm()

    def finish(self, layers: Iterable[Layer]) -> None:
        """Close all forwards, before a step."""
        for layer in layers if self._open else ():
            self._confirm_assigned(layer)
            self._close(layer)

    def drop(self, layers: Iterable[Layer]) -> None:
        """Before a step, forget the forwards of layers whose gradient has been set to None."""
        for layer in layers if self._open or self.added else ():
            if layer.weight.grad is None:
                self._discard_earlier(layer, backward=None)

    def end_step(self) -> None:
        """Start the next step."""
        self.added.clear()
        self.empty = False
        self._step += 1

    def discard(self, layers: Iterable[Layer]) -> None:
        """Forget the forwards whose gradients are discarded."""
        for layer in layers if self._open or self.added else ():
            self._discard_earlier(layer, backward=None)

    def _discard_earlier(self, layer: Layer, backward: int | None) -> None:
        """Discard a layer's statistics of this step, and its open forwards of other backwards."""
        forwards = self._open.pop(layer.name, [])
        for forward in forwards:
            if forward.backward != backward:
                forward.discard()
        if current := [forward for forward in forwards if forward.backward == backward]:
            self._open[layer.name] = current
        if layer.name in self.added:
            self.added.discard(layer.name)
            self._statistics.discard([layer])

    def _confirm_assigned(self, layer: Layer) -> None:
        """Count the last backward if the gradient was assigned, as by `p.grad = autograd.grad(...)`."""
        forwards = self._open.get(layer.name, [])
        added = layer.name in self.added
        if not forwards or added or any(forward.confirmed for forward in forwards):
            return
        last = max(forward.backward for forward in forwards)
        for forward in forwards:
            if forward.backward == last:
                forward.confirm()

    def _close(self, layer: Layer) -> None:
        """Add the confirmed forwards of a layer to the statistics, and drop the others."""
        groups: dict[int, list[Forward]] = {}
        for forward in self._open.pop(layer.name, []):
            if forward.confirmed:
                groups.setdefault(forward.backward, []).append(forward)
        for forwards in groups.values():
            self._add(forwards)

    def _add(self, forwards: list[Forward]) -> None:
        """Add the forwards of one layer in one backward to the statistics."""
        layer = forwards[0].layer
        for forward in forwards:
            for add in forward.additions:
                add()
            forward.closed, forward.additions = True, []
        if self._keep:
            self._add_gradients(layer, forwards)
        self.added.add(layer.name)

    def _add_gradients(self, layer: Layer, forwards: list[Forward]) -> None:
        gradients = [forward.gradient for forward in forwards if forward.gradient is not None]
        numbers = [layer.examples(gradient) for gradient in gradients]
        same = self.same_examples and len(set(numbers)) == 1
        for forward, gradient in zip(forwards, gradients, strict=True):
            self._statistics.accumulate(
                layer,
                forward.x if self._needs is Needs.PAIRS else None,
                gradient,
                examples=numbers[0] if same else sum(numbers),
                backward=forward.backward if same else next(self._separate),
            )
            forward.gradient = None
