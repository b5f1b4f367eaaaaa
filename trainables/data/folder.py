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
from trainables.data.base import Data, DataError, Images, Loading, default_data_dir
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
    images = Images(
        train=train,
        train_labels=torch.tensor(train.labels),
        test=test,
        test_labels=torch.tensor(test.labels),
        mean=MEAN,
        deviation=DEVIATION,
        size=LARGE_SIZE,
    )
    return LoaderData(images, loading)


# ---------------------------------------------------------------------- a user's own folder


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """`imagefolder:PATH`: PATH/train and PATH/test (or PATH/val), each with one folder a class.

    Attributes:
        name: `imagefolder:PATH`.
        path: The folder.
        held: Name of the test split.
        class_names: Names of the class folders, in the order of the labels.
        train_examples: Images in PATH/train.
        test_examples: Images in the other split.
        size: Side of an image in pixels; 224 for larger images.
    """

    name: str
    path: Path
    held: str
    class_names: Sequence[str]
    train_examples: int
    test_examples: int
    size: int
    channels: int = 3
    augmented: bool = True

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def _splits(self) -> tuple[Files, Files]:
        return listed(self.path / "train", self.class_names), listed(self.path / self.held, self.class_names)

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
    held = "test" if (folder / "test").is_dir() else "val"
    train, test = class_names(folder / "train"), class_names(folder / held)
    wrong = [f"class {name} is in train, not in {held}" for name in train if name not in test]
    wrong += [f"class {name} is in {held}, not in train" for name in test if name not in train]
    if len(train) < 2:
        wrong.append(f"{len(train)} classes in train: at least 2, a folder for each")
    _refuse(path, wrong)
    splits = {split: listed(folder / split, train) for split in ("train", held)}
    filled = {split: set(files.labels) for split, files in splits.items()}
    empty = [f"{split}/{name}" for split in splits for label, name in enumerate(train) if label not in filled[split]]
    _refuse(path, [f"{name} has no images ({', '.join(ENDINGS)})" for name in empty])
    first = read_image(splits["train"].paths[0])
    small = first.width == first.height <= SMALL
    return ImageFolder(
        name=f"imagefolder:{path}",
        path=folder,
        held=held,
        class_names=train,
        train_examples=len(splits["train"]),
        test_examples=len(splits[held]),
        size=first.width if small else LARGE_SIZE,
    )


def _refuse(path: str, wrong: Sequence[str]) -> None:
    if wrong:
        raise HyperparameterError("\n".join(f"imagefolder:{path}: {line}" for line in wrong))
