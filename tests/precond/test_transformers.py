"""The Trainer of transformers gives the weights of a plain loop, and resumes from its checkpoints."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import precond

os.environ["HF_HUB_OFFLINE"] = "1"  # before the import: the tests use no network
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the packages that transformers imports
    transformers = pytest.importorskip("transformers")

INTERVALS = {"cov_interval": 1, "inv_interval": 2, "basis_interval": 2, "rank": 2}
EPOCHS, ACCUMULATE = 2, 2


class Trainer(transformers.Trainer):
    """A Trainer that does not shuffle."""

    def get_train_dataloader(self) -> DataLoader:
        return self.accelerator.prepare(batches())


def batches() -> DataLoader:
    tokens = torch.randint(20, (16, 6), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": row, "labels": torch.tensor(i % 3)} for i, row in enumerate(tokens)]
    return DataLoader(rows, batch_size=4)  # type: ignore[arg-type]


def pair(name: str) -> tuple[nn.Module, Any, Any]:
    """Return a new model, its optimizer and a schedule."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 16, "num_labels": 3}
    sizes |= {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 8}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model: Any = transformers.BertForSequenceClassification(
        transformers.BertConfig(**sizes, **dropout)
    )
    values = {k: v for k, v in INTERVALS.items() if k in precond.defaults(name)}
    optimizer: Any = precond.build(name, model, **values)
    return model, optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)


def fit(name: str, folder: Path, resume: Path | None = None, **options: Any) -> Tensor:
    model, *optimizers = pair(name)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=EPOCHS,
        gradient_accumulation_steps=ACCUMULATE,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **{"save_strategy": "no", **options},
    )
    trainer = Trainer(
        model=model, args=arguments, train_dataset=batches().dataset, optimizers=tuple(optimizers)
    )
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return weights(model)


def plain_loop(name: str) -> Tensor:
    """Train as the Trainer does.

    It does not divide the loss of this model by the number of micro-batches, because the forward
    accepts `num_items_in_batch`.
    """
    model, optimizer, scheduler = pair(name)
    model.train()
    for _ in range(EPOCHS):
        for number, batch in enumerate(batches(), 1):
            model(**batch).loss.backward()
            if number % ACCUMULATE == 0:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
    return weights(model)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", ["nysact-s", "kfac", "steve"])
def test_the_trainer_gives_the_weights_of_a_plain_loop(name, tmp_path: Path):
    trained = fit(name, tmp_path)
    assert torch.equal(trained, plain_loop(name))
    assert not torch.equal(trained, weights(pair(name)[0]))


@pytest.mark.parametrize("name", ["nysact-s", "steve"])
def test_a_run_that_is_resumed_from_a_checkpoint_gives_the_same_weights(name, tmp_path: Path):
    whole = fit(name, tmp_path, save_strategy="steps", save_steps=2)
    resumed = fit(name, tmp_path, resume=tmp_path / "checkpoint-2")
    assert torch.equal(resumed, whole)
