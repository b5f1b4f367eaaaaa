"""Random numbers of an optimizer that depend only on its seed and the number of its step."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from precond.parts.sketches import seed_of

States = tuple[Any, Any, Any, dict[torch.device, Tensor]]


class Generators:
    """States for the global random generators of Python, NumPy and torch.

    Args:
        seed: The seed of the optimizer.
        step: The number of the step. The states depend on `seed` and `step`.
        parameters: The parameters; the generators of their CUDA devices are included.
    """

    def __init__(self, seed: int, step: int, parameters: list[Tensor]):
        import numpy  # pytorch-optimizer requires it

        self._numpy = numpy.random
        number = seed_of(seed, "step", step)
        self._devices = {p.device for p in parameters if p.device.type == "cuda"}
        self._states: States = (
            random.Random(number).getstate(),
            numpy.random.RandomState(number % 2**32).get_state(),
            torch.Generator().manual_seed(number).get_state(),
            {d: torch.Generator(d).manual_seed(number).get_state() for d in self._devices},
        )

    def exchange(self) -> None:
        """Exchange the stored states with those of the global generators."""
        new, self._states = self._states, self._current()
        random.setstate(new[0])
        self._numpy.set_state(new[1])
        torch.set_rng_state(new[2])
        for device, state in new[3].items():
            torch.cuda.set_rng_state(state, device)

    def _current(self) -> States:
        devices = {device: torch.cuda.get_rng_state(device) for device in self._devices}
        return random.getstate(), self._numpy.get_state(), torch.get_rng_state(), devices

    @contextmanager
    def exchanged(self) -> Iterator[None]:
        """Use the stored states inside the `with` block, and then the previous ones again."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    def outside(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """Return a closure that uses the states from outside the block of `exchanged`."""

        def evaluate() -> Any:
            with self.exchanged():
                return closure()

        return evaluate
