"""Folders of class folders: Tiny ImageNet and ImageNet in their usual layouts, and a user's (`imagefolder:PATH`).

If all images are squares of one size, at most `SMALL` pixels, they are cached and stay on the device; worker processes
read other images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from precond import HyperparameterError
from trainables.data.base import Data, DataError, Images, Loading, Source, default_data_dir
from trainables.data.cache import arrays, stamp
from trainables.data.device import small_images
from trainables.data.images import ENDINGS, Files, class_names, listed, read_image, unreadable
from trainables.data.loader import LoaderData

SMALL = 64  # pixels; images up to this size are cached as bytes
LARGE_SIZE = 224  # pixels; larger images are resized to it where the recipe sets no size
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, used for every folder of large images


def load_folder(splits: Callable[[], tuple[Files, Files]], folder: Path, loading: Loading) -> Data:
    """Load a folder for a trial; `splits` lists the training and the test images."""
    try:
        train, test = splits()
        small = max(read_image(train.paths[0]).size) <= SMALL
        key = f"{folder.name}-{stamp(folder, [*train.paths, *test.paths])}" if small else ""
    except (OSError, ValueError, KeyError) as error:
        raise error if isinstance(error, DataError) else DataError(f"{folder}: {error}") from error
    places = [folder, loading.data_dir]
    if small and (cached := arrays(places, key, lambda: {"train": train.pairs(), "test": test.pairs()})):
        return small_images(cached, loading)
    labels = torch.tensor(train.labels), torch.tensor(test.labels)
    return LoaderData(Images(train, labels[0], test, labels[1], MEAN, DEVIATION, LARGE_SIZE), loading)


# ---------------------------------------------------------------------- a user's own folder


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Source):
    """`imagefolder:PATH`: PATH/train and PATH/test (or PATH/val), each with one folder a class.

    Attributes:
        path: The folder.
        test_split: Name of the folder of the test split.
        class_names: Names of the class folders, in the order of the labels.
    """

    name: str
    path: Path
    test_split: str
    class_names: Sequence[str]
    classes: int
    train_examples: int
    test_examples: int
    size: int

    def _splits(self) -> tuple[Files, Files]:
        return listed(self.path / "train", self.class_names), listed(self.path / self.test_split, self.class_names)

    def problems(self, data_dir: Path, verify: bool = False) -> list[str]:
        """With `verify`, return one line for each image that cannot be decoded; `image_folder` checked the folder."""
        return unreadable([path for split in self._splits() for path in split.paths]) if verify else []

    def load(self, loading: Loading) -> Data:
        """Load the images, small ones from a cache in the folder."""
        return load_folder(self._splits, self.path, loading)


def image_folder(path: str) -> ImageFolder:
    """Return the dataset in a folder; a relative path is below the data folder, where every worker finds it.

    Raises:
        HyperparameterError: No such folder, no splits, classes that differ between them, or a class without images.
    """
    folder = default_data_dir().absolute() / Path(path).expanduser()
    try:
        return _image_folder(path, folder)
    except DataError as error:
        raise HyperparameterError(f"imagefolder:{path}: {error}") from error
    except OSError as error:
        place = "" if Path(path).expanduser().is_absolute() else "; a relative path is one below --data-dir"
        raise HyperparameterError(f"imagefolder:{path}: {error.filename}: {error.strerror}{place}") from error


@cache
def _image_folder(path: str, folder: Path) -> ImageFolder:
    splits = ("train", "test" if (folder / "test").is_dir() else "val")
    names, test_names = (class_names(folder / split) for split in splits)
    errors = [f"class {name} is in train, not in {splits[1]}" for name in names if name not in test_names]
    errors += [f"class {name} is in {splits[1]}, not in train" for name in test_names if name not in names]
    if len(names) < 2:
        errors.append(f"{len(names)} classes in train: at least 2, a folder for each")
    _refuse(path, errors)
    train, test = (listed(folder / split, names) for split in splits)
    filled = zip(splits, (set(train.labels), set(test.labels)), strict=True)
    empty = [f"{split}/{name}" for split, labels in filled for label, name in enumerate(names) if label not in labels]
    _refuse(path, [f"{name} has no images ({', '.join(ENDINGS)})" for name in empty])
    first = read_image(train.paths[0])
    return ImageFolder(
        name=f"imagefolder:{path}",
        path=folder,
        test_split=splits[1],
        class_names=names,
        classes=len(names),
        train_examples=len(train),
        test_examples=len(test),
        size=first.width if first.width == first.height <= SMALL else LARGE_SIZE,
    )


def _refuse(path: str, errors: Sequence[str]) -> None:
    if errors:
        raise HyperparameterError("\n".join(f"imagefolder:{path}: {line}" for line in errors))
