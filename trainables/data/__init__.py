"""Datasets: `source(name)` describes a dataset, and `Source.load` loads it for a trial.

A dataset of small images is copied to the device, where batches are augmented. Large images are
read and augmented by worker processes. In both cases an epoch's batches depend only on its seed,
not on earlier epochs, the device or the number of workers.

Code that reads, checks, downloads or augments data belongs here. The package imports torch,
`precond` and `trainables.{config,files}`. Only the functions that need torchvision, PIL, numpy or
filelock import them.
"""

from __future__ import annotations

from precond import HyperparameterError
from precond.hyperparameters import nearest
from trainables.data import cifar, digits, folder
from trainables.data.base import DataError, Loading, Source, TensorData, default_data_dir

__all__ = ["DataError", "Loading", "TensorData", "default_data_dir", "source"]


def source(name: str) -> Source:
    """Return a dataset by name; `imagefolder:PATH` is any folder of class folders.

    Raises:
        HyperparameterError: The name is unknown; the message contains the nearest and all known
            names.
    """
    kind, _, path = name.partition(":")
    if kind == "imagefolder" and path:
        return folder.image_folder(path)
    known = (
        digits.Digits(),
        cifar.CIFAR10,
        cifar.CIFAR100,
        folder.TinyImageNet(),
        folder.ImageNet(),
    )
    sources: dict[str, Source] = {dataset.name: dataset for dataset in known}
    if name not in sources:
        raise HyperparameterError(
            f'dataset = "{name}": unknown.{nearest(name, [*sources, "imagefolder:PATH"])}'
        )
    return sources[name]
