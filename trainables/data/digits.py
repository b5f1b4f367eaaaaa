"""The 1,797 handwritten digits that ship with scikit-learn (8 x 8 pixels, 10 classes): nothing to download."""

from __future__ import annotations

import torch

from trainables.data import TensorData

TEST_IMAGES = 600


def digits(device: torch.device) -> TensorData:
    """1,197 training and 600 test images `[n, 1, 8, 8]`, split once and for all, by class in proportion.

    Pixels are standardised with the training set's mean and standard deviation.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images, labels, test_size=TEST_IMAGES, stratify=labels, random_state=0)
    train_x, test_x = (torch.as_tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) for x in split[:2])
    train_y, test_y = (torch.as_tensor(y, dtype=torch.int64) for y in split[2:])
    mean, deviation = train_x.mean(), train_x.std()
    tensors = ((train_x - mean) / deviation, train_y, (test_x - mean) / deviation, test_y)
    return TensorData(*(tensor.to(device) for tensor in tensors))
