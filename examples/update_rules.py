"""Train a network with NysAct followed by each update rule: `python examples/update_rules.py`."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import precond

LEARNING_RATES = {"sgd": 0.1, "adam": 0.003, "sign": 0.003, "orthogonal": 0.03}


def main(epochs: int = 3) -> dict[str, float]:
    """Train on scikit-learn's digits with each rule; print and return the test accuracies."""
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    results = {}
    for rule, lr in LEARNING_RATES.items():
        torch.manual_seed(0)
        train, test = torch.randperm(len(images)).split([1400, len(images) - 1400])
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = precond.build("nysact-s", model, rule=rule, lr=lr)
        for _ in range(epochs):
            for batch in train[torch.randperm(len(train))].split(64):
                optimizer.zero_grad()
                F.cross_entropy(model(images[batch]), labels[batch]).backward()
                optimizer.step()
        with torch.no_grad():
            correct = model(images[test]).argmax(1) == labels[test]
        results[rule] = correct.float().mean().item()
        print(f"{rule}: test accuracy {results[rule]:.1%}")
    return results


if __name__ == "__main__":
    main()
