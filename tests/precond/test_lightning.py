"""Lightning's Trainer gives the same weights as a plain loop, and resumes from its checkpoints.

The Trainer wraps the optimizer in a subclass of its class, and calls `step` with a closure that runs the
forward, then `zero_grad`, then the backward, and then clips the gradients.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import precond
from precond.hessian import TakesLoss
from precond.registry import REGISTRY
from tests import closures

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the packages that Lightning imports
    lightning = pytest.importorskip("lightning")

NAMES = [n for n, entry in REGISTRY.items() if not entry.package or find_spec(entry.package)]
INTERVALS = {
    **{"cov_interval": 1, "inv_interval": 2, "basis_interval": 2, "interval": 2},
    **{"rank": 2, "window": 4, "memory": 3},
}
EPOCHS, CLIP = 2, 0.4
pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
    pytest.mark.filterwarnings("ignore:The `srun` command is available"),  # on a Slurm machine
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
]


class Plain(lightning.LightningModule):
    """A small network, an optimizer and a schedule, with Lightning's own backward."""

    def __init__(self, name: str, accumulate: int = 1):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 3))
        self.name, self.accumulate = name, accumulate

    def configure_optimizers(self) -> Any:
        values = {k: v for k, v in INTERVALS.items() if k in precond.defaults(self.name)}
        optimizer: Any = precond.build(self.name, self.net, **values)
        if hasattr(optimizer, "grad_output_scale"):
            optimizer.grad_output_scale = 1 / self.accumulate
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def training_step(self, batch: list[Tensor]) -> Tensor:
        inputs, labels = batch
        return F.cross_entropy(self.net(inputs), labels)

    def weights(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.parameters()])


class Module(Plain):
    """The same with a backward that suits every optimizer."""

    def backward(self, loss: Tensor) -> None:
        precond.backward(loss, self.optimizers(use_pl_optimizer=False))


def batches() -> DataLoader:
    inputs = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(inputs, torch.arange(32) % 3), batch_size=8)


def trainer(epochs: int = EPOCHS, **options: Any) -> Any:
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options |= dict.fromkeys(quiet, False)
    return lightning.Trainer(max_epochs=epochs, accelerator="cpu", devices=1, **options)


def loss_of(module: Module, batch: list[Tensor], bfloat16: bool) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16, cache_enabled=False):
        return module.training_step(batch) / module.accumulate


def plain_loop(module: Module, clip: float | None, bfloat16: bool = False) -> None:
    [optimizer], [schedule] = module.configure_optimizers()
    for _ in range(EPOCHS):
        for number, batch in enumerate(batches(), 1):
            closures.backward(optimizer, loss_of, module, batch, bfloat16)
            if number % module.accumulate == 0:
                if clip is not None:
                    nn.utils.clip_grad_norm_(module.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
                schedule["scheduler"].step()


@pytest.mark.parametrize(
    ("accumulate", "clip", "precision"),
    [(1, None, "32-true"), (2, CLIP, "32-true"), (2, CLIP, "bf16-mixed")],
)
@pytest.mark.parametrize("name", NAMES)
def test_the_trainer_gives_the_weights_of_a_plain_loop(name, accumulate, clip, precision):
    module, expected = Module(name, accumulate), Module(name, accumulate)
    options = {"accumulate_grad_batches": accumulate, "gradient_clip_val": clip}
    if accumulate > 1 and precond.needs_closure(module.configure_optimizers()[0][0]):
        # Lightning's closure evaluates only the last micro-batch.
        with pytest.raises(RuntimeError, match="the closure must evaluate all micro-batches"):
            trainer(precision=precision, **options).fit(module, batches())
        return
    trainer(precision=precision, **options).fit(module, batches())
    plain_loop(expected, clip, bfloat16=precision == "bf16-mixed")
    assert torch.equal(module.weights(), expected.weights())
    assert not torch.equal(module.weights(), Module(name).weights())


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_is_resumed_from_a_checkpoint_gives_the_same_weights(name, tmp_path: Path):
    expected, first, resumed = Module(name), Module(name), Module(name)
    trainer().fit(expected, batches())
    begun = trainer(epochs=1)
    begun.fit(first, batches())
    begun.save_checkpoint(tmp_path / "last.ckpt")
    trainer().fit(resumed, batches(), ckpt_path=tmp_path / "last.ckpt")
    assert torch.equal(resumed.weights(), expected.weights())
    assert not torch.equal(resumed.weights(), first.weights())


@pytest.mark.parametrize("name", NAMES)
def test_the_backward_of_lightning_suits_an_optimizer_or_the_error_has_the_method_to_define(name):
    module, expected = Plain(name), Module(name)
    [optimizer], _ = Plain(name).configure_optimizers()
    if isinstance(optimizer, TakesLoss):
        with pytest.raises(RuntimeError) as error:
            trainer().fit(module, batches())
        text = str(error.value)
        assert "`def backward(self, loss): precond.backward(loss, self.optimizers(" in text
        assert "needs the Hessian" in text and "\n" not in text
    else:
        trainer().fit(module, batches())
        trainer().fit(expected, batches())
        assert torch.equal(module.weights(), expected.weights())


@pytest.mark.parametrize("name", NAMES)
def test_the_optimizer_of_a_module_is_changed_through_the_wrapper_of_lightning(name):
    module = Module(name)
    fitted = trainer(epochs=1)
    fitted.fit(module, batches())
    wrapper, optimizer = module.optimizers(), module.optimizers(use_pl_optimizer=False)
    assert type(wrapper) is not type(optimizer) and isinstance(wrapper, type(optimizer))
    assert precond.coverage(wrapper) == precond.coverage(optimizer)
    if hasattr(optimizer, "grad_output_scale"):
        wrapper.grad_output_scale = 0.5
        assert optimizer.grad_output_scale == 0.5 and optimizer._has_output_scale
