"""Train a small network with NysAct in a plain PyTorch loop: `python examples/plain_loop.py`."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import precond


def main(epochs: int = 5) -> float:
    """Train on scikit-learn's digits, print the test accuracy of each epoch, return the last one."""
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    torch.manual_seed(0)
    order = torch.randperm(len(images))
    train, test = order[:1400], order[1400:]

    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = precond.NysAct(model, lr=0.1, rank=10)

    for epoch in range(epochs):
        for batch in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            accuracy = (model(images[test]).argmax(1) == labels[test]).float().mean().item()
        print(f"epoch {epoch + 1}: test accuracy {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
