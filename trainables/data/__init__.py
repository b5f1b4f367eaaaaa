"""Datasets: `source(name)` describes a dataset, and `Source.load` loads it for a trial.

Worker processes read and augment large images, and small images if an augmentation requires it. All
other data are copied to the device, where batches of small images are augmented. In both cases an
epoch's batches depend only on its seed, not on earlier epochs, the device or the number of workers.

Code that reads, checks, downloads or augments data belongs here. The package imports torch,
`precond` and `trainables.{config,files,tasks}`. Only the functions that need torchvision, PIL,
numpy or filelock import them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from precond import HyperparameterError
from precond.hyperparameters import nearest
from trainables.data import arrays, cifar, diabetes, digits, folder, illconditioned, mnist5k, text
from trainables.data.base import DataError, Loading, Source, default_data_dir
from trainables.data.tensors import TensorData

__all__ = ["DataError", "Loading", "TensorData", "default_data_dir", "source"]

DATASETS: Mapping[str, Callable[[], Source]] = {
    "digits": digits.Digits,
    "mnist5k": mnist5k.Mnist5k,
    "diabetes": diabetes.Diabetes,
    "text": text.documentation,
    "illconditioned": illconditioned.IllConditioned,
    "cifar10": lambda: cifar.CIFAR10,
    "cifar100": lambda: cifar.CIFAR100,
    "tinyimagenet": folder.TinyImageNet,
    "imagenet": folder.ImageNet,
}
USER_DATASETS: Mapping[str, Callable[[str], Source]] = {
    "imagefolder": folder.image_folder,
    "text": text.text_file,
    "array": arrays.array_file,
}
"""Datasets in a user's files: the function takes the path that follows the prefix and a colon."""


def source(name: str) -> Source:
    """Return a dataset by name; `PREFIX:PATH` is a dataset in a user's files.

    Raises:
        HyperparameterError: The name is unknown; the message contains the nearest and all known
            names. Or the user's files cannot be used.
    """
    prefix, _, path = name.partition(":")
    if prefix in USER_DATASETS and path:
        return USER_DATASETS[prefix](path)
    if name not in DATASETS:
        known = [*DATASETS, *(f"{prefix}:PATH" for prefix in USER_DATASETS)]
        raise HyperparameterError(f'dataset = "{name}": unknown.{nearest(name, known)}')
    return DATASETS[name]()
