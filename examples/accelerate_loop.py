"""Train with NysAct under Accelerate: bfloat16 autocast and two accumulated micro-batches per step.

`python examples/accelerate_loop.py`, or `accelerate launch examples/accelerate_loop.py` for data parallel training.
"""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import precond


def main(epochs: int = 5) -> float:
    """Train on scikit-learn's digits, print the training loss of each epoch, return the last one."""
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    examples = TensorDataset(images, torch.tensor(digits.target))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = precond.NysAct(model, lr=0.1, rank=10)

    accelerator = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=2)
    batches = DataLoader(examples, batch_size=32, shuffle=True)
    model, optimizer, batches = accelerator.prepare(model, optimizer, batches)

    for epoch in range(epochs):
        total = torch.zeros((), device=accelerator.device)
        for inputs, labels in batches:
            with accelerator.accumulate(model):
                loss = F.cross_entropy(model(inputs), labels)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                total += loss.detach() / len(batches)
        accelerator.print(f"epoch {epoch + 1}: training loss {total.item():.3f}")
    return total.item()


if __name__ == "__main__":
    main()
