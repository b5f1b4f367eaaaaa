"""Steps that evaluate the model a second time, on the same batch at the new weights.

Only a closure can evaluate the model, so `step()` of such an optimizer needs one:

>>> def closure():
...     optimizer.zero_grad()
...     loss = loss_function(model(inputs), targets)
...     loss.backward()
...     return loss
>>> optimizer.step(closure)

The second evaluation draws the same random numbers as the first one from torch's generators, so
that dropout has the same masks. It changes neither the gradients nor the buffers of the model, such
as the running statistics of BatchNorm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.checkpoint import get_device_states, set_device_states

from precond.bank import Bank
from precond.counts import counted
from precond.parts.collectives import Ranks, active


def needs_closure(optimizer: Any) -> bool:
    """Return True if `optimizer.step` evaluates the model, so that it needs a closure."""
    return getattr(optimizer, "needs_closure", False)


def step(optimizer: Optimizer | Any, evaluate: Callable[[], Any]) -> Any:
    """Evaluate a batch, take a step of any optimizer, and return the loss before the step.

    Args:
        optimizer: The optimizer.
        evaluate: Clears the gradients, computes the loss and its backward, and returns the loss. An
            optimizer that needs a closure calls this function itself, more than once. For all other
            optimizers, it is called once, before `step()`.
    """
    if needs_closure(optimizer):
        return optimizer.step(evaluate)
    loss = evaluate()
    optimizer.step()
    return loss


def require_closure(name: str, closure: Callable[[], Any] | None, scaled: bool) -> None:
    """Raise `RuntimeError` if a step that evaluates the model twice cannot do so.

    Args:
        name: The name of the optimizer.
        closure: The closure of the step, or None.
        scaled: True if GradScaler called the step.
    """
    if scaled:
        raise RuntimeError(
            f"{name} does not support GradScaler: it needs a closure, whose loss would not be "
            "scaled. Use bfloat16 autocast"
        )
    if closure is None:
        raise RuntimeError(
            f"{name} evaluates the model twice in each step: call optimizer.step(closure) with "
            "`def closure(): optimizer.zero_grad(); loss = loss_function(model(inputs), targets); "
            "loss.backward(); return loss`"
        )


class SecondPass:
    """The second evaluation of a step. Create it before the first evaluation.

    Args:
        model: The model.
        banks: The banks of the optimizer.
        ranks: The ranks of the optimizer.
    """

    def __init__(self, model: nn.Module, banks: Sequence[Bank], ranks: Ranks | None):
        self._model, self._banks, self._ranks = model, banks, ranks
        self._generator = torch.get_rng_state()
        parameters = list(model.parameters())
        types = [p.device.type for p in parameters if p.device.type != "cpu"]
        self._device_type = types[0] if types else "cuda"  # fork_rng needs a type
        self._devices, self._states = get_device_states(*parameters)

    def end_first(self) -> None:
        """Read the means of the first evaluation.

        Call this inside `active(ranks)`, when the sums are complete and before the weights change.
        """
        self._backwards = self._count_backwards()
        self._means = [bank.take_means() for bank in self._banks]

    def _count_backwards(self) -> int:
        return len({number for bank in self._banks for number in bank.backwards})

    def run(self, evaluate: Callable[[], Any]) -> None:
        """Evaluate the batch at the new weights, and pass its means to the algorithm.

        Raises:
            RuntimeError: The closure did not repeat all backwards of the step.
        """
        with self._same_random_numbers(), unchanged(self._model), recording(self._banks):
            evaluate()
            for bank in self._banks:
                bank.forwards.drop(bank.layers)
                bank.forwards.finish(bank.layers)
            repeated = self._count_backwards()
            if self._backwards and repeated != self._backwards:
                raise RuntimeError(
                    f"the gradients of this step are those of {counted(self._backwards, 'backward')}, "
                    f"but the closure ran {repeated} when it was called again: the closure must "
                    "evaluate all micro-batches of the step in each call"
                )
            with active(self._ranks):
                for bank, means in zip(self._banks, self._means, strict=True):
                    bank.compare(means)

    @contextmanager
    def _same_random_numbers(self) -> Iterator[None]:
        """Draw the random numbers of the first evaluation again, inside the `with` block."""
        with torch.random.fork_rng(self._devices, device_type=self._device_type):
            torch.set_rng_state(self._generator)
            set_device_states(self._devices, self._states, device_type=self._device_type)
            yield


@contextmanager
def recording(banks: Sequence[Bank]) -> Iterator[None]:
    """Inside the `with` block, record only the means of the second evaluation."""
    for bank in banks:
        bank.in_second_pass = True
    try:
        yield
    finally:
        for bank in banks:
            bank.forwards.discard(bank.layers)
            bank.forwards.end_step()
            bank.in_second_pass = False


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore the gradients and the buffers of a model after the `with` block.

    The values are copied, because gradients and buffers may be written in place: gradients can be
    views of the memory in which DistributedDataParallel sums them.
    """
    gradients = [
        (p, p.grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()
    ]
    buffers = [
        (module._buffers, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    for parameter, _, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient, values in gradients:
            parameter.grad = gradient
            if gradient is not None and values is not None:
                gradient.copy_(values)
        for owner, name, buffer, values in buffers:
            owner[name] = buffer
            buffer.copy_(values)
