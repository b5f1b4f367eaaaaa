"""Module hooks, each of which belongs to one optimizer.

A copy of a model also has copies of the hooks. These copies do nothing. They are removed when an
optimizer is attached to the copied model.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle


class ModuleHook:
    """A hook of one module.

    Attributes:
        module: The module.
        id: The number of the hook in the module, after its registration.
    """

    def __init__(self, module: nn.Module):
        self.module = module
        self.id = 0

    def register_forward(self, **options: bool) -> RemovableHandle:
        """Register the hook as a forward hook."""
        return self._noted(self.module.register_forward_hook(self, **options))  # type: ignore

    def move_to_front(self) -> None:
        """Run before hooks that the user registered with `prepend=True` after this one."""
        hooks: Any = self.module._forward_hooks
        if next(iter(hooks)) != self.id:
            hooks.move_to_end(self.id, last=False)

    def register_forward_pre(self, **options: bool) -> RemovableHandle:
        """Register the hook as a forward pre-hook."""
        return self._noted(self.module.register_forward_pre_hook(self, **options))  # type: ignore

    def _noted(self, handle: RemovableHandle) -> RemovableHandle:
        self.id = handle.id
        return handle

    def __deepcopy__(self, memo: dict[int, Any]) -> ModuleHook:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Detached, (self.id,)


class Detached:
    """A hook that does nothing; unpickling a `ModuleHook` creates it.

    Args:
        id: The number of the hook in its module. No later hook may get this number, because torch
            would use the options of this hook (such as `with_kwargs`) for the later hook.
    """

    def __init__(self, id: int):
        self.id = id
        RemovableHandle.next_id = max(RemovableHandle.next_id, id + 1)

    def __call__(self, *_: Any) -> None:
        """Do nothing."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Detached, (self.id,)


def remove_copies(module: nn.Module) -> None:
    """Remove the hooks that a module has as a copy of another module."""
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        for number, hook in list(hooks.items()):
            copied = isinstance(hook, ModuleHook) and hook.module is not module
            if copied or isinstance(hook, Detached):
                del hooks[number]
                for flags in (
                    module._forward_hooks_with_kwargs,
                    module._forward_hooks_always_called,
                    module._forward_pre_hooks_with_kwargs,
                ):
                    flags.pop(number, None)
