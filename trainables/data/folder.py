"""Folders of class folders: ImageNet, Tiny ImageNet and custom folders (`imagefolder:PATH`).

If all images are squares of the same size, of at most `SMALL` pixels, they are cached and loaded
onto the device. Otherwise worker processes read them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch

from precond import HyperparameterError
from precond.counts import counted
from trainables.data.base import Data, DataError, Images, Loading, Source
from trainables.data.cache import arrays, stamp
from trainables.data.device import small_images
from trainables.data.fetch import Archive, command_with, fetch, missing
from trainables.data.images import (
    ENDINGS,
    Files,
    class_names,
    list_images,
    read_image,
    unreadable,
)
from trainables.data.loader import LoaderData
from trainables.data.paths import unreadable_path, user_path

SMALL = 64  # pixels; images up to this size are cached as bytes
LARGE_SIZE = 224  # pixels; the default size of larger images in a batch
# Mean and standard deviation of ImageNet's channels, used for every folder of large images.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Splits = Callable[[], tuple[Files, Files]]
"""Returns the training and the test images of a folder."""


def split_problems(
    folder: Path,
    splits: Splits,
    expected: Mapping[str, int],
    classes: int,
    advice: str,
    verify: bool,
) -> list[str]:
    """Return one line for each incomplete split; with `verify`, one for each unreadable image.

    Args:
        folder: The folder of the dataset.
        splits: Lists the training and the test images.
        expected: Number of images by split, the training split first.
        classes: Number of classes.
        advice: The last sentence of a line, which says how to obtain the data.
        verify: Also read all images, if the splits are complete.
    """
    try:
        train, test = splits()
    except (OSError, ValueError, KeyError) as error:
        return [f"{folder}: incomplete or damaged ({error}). {advice}"]
    problems = []
    for files, (split, count) in zip((train, test), expected.items(), strict=True):
        actual = len(files), len(set(files.labels))
        if actual != (count, classes):
            images, folders = counted(actual[0], "image"), counted(actual[1], "class", "classes")
            counts = f"{images} in {folders}, not {count:,} in {classes:,}"
            problems.append(f"{folder / split}: {counts}. {advice}")
    return problems or (unreadable([*train.paths, *test.paths]) if verify else [])


def load_folder(splits: Splits, folder: Path, loading: Loading) -> Data:
    """Load the images of a folder for a trial; `splits` lists the training and the test images."""
    try:
        train, test = splits()
        small = max(read_image(train.paths[0]).size) <= SMALL
        key = f"{folder.name}-{stamp(folder, [*train.paths, *test.paths])}" if small else ""
    except (OSError, ValueError, KeyError) as error:
        raise error if isinstance(error, DataError) else DataError(f"{folder}: {error}") from error
    places = [folder, loading.data_dir]
    if small and (
        cached := arrays(places, key, lambda: {"train": train.pairs(), "test": test.pairs()})
    ):
        return small_images(cached, loading)
    train_labels, test_labels = torch.tensor(train.labels), torch.tensor(test.labels)
    images = Images(train, train_labels, test, test_labels, MEAN, DEVIATION, LARGE_SIZE)
    return LoaderData(images, loading)


IMAGENET_ADVICE = (
    "Register at image-net.org, then unpack ILSVRC2012_img_train.tar (138 GB) to train/<wnid>/ and "
    "ILSVRC2012_img_val.tar (6 GB) to val/<wnid>/, or give the folder that contains imagenet/ with "
    "--data-dir"
)


@dataclass(frozen=True)
class ImageNet(Source):
    """ILSVRC 2012, in `imagenet/train/<wnid>/*.JPEG` and `imagenet/val/<wnid>/*.JPEG`.

    The download requires a registration, so the user downloads and unpacks the files.
    """

    name: str = "imagenet"
    classes: int = 1000
    train_examples: int = 1_281_167
    test_examples: int = 50_000
    size: int = 224

    def problems(self, data_dir: Path, verify: bool = False) -> list[str]:
        """Return one line for each missing or incomplete split.

        With `verify`, also return one line for each unreadable image.
        """
        folder = data_dir / "imagenet"
        expected = {"train": self.train_examples, "val": self.test_examples}
        if absent := [split for split in expected if not (folder / split).is_dir()]:
            reason = f"not found (imagenet, 144 GB). {IMAGENET_ADVICE}"
            return [f"{folder / split}: {reason}" for split in absent]
        splits = partial(self._splits, folder)
        return split_problems(folder, splits, expected, self.classes, IMAGENET_ADVICE, verify)

    def _splits(self, folder: Path) -> tuple[Files, Files]:
        names = class_names(folder / "train")
        return list_images(folder / "train", names), list_images(folder / "val", names)

    def load(self, loading: Loading) -> Data:
        """Load the dataset, whose images are read by worker processes."""
        folder = loading.data_dir / "imagenet"
        return load_folder(partial(self._splits, folder), folder, loading)


TINY = Archive(
    url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    md5="90528d7ca1a48142e341f4ef8d21d0de",
    sha256=None,
    megabytes=248,
    folder="tiny-imagenet-200",
)


@dataclass(frozen=True)
class TinyImageNet(Source):
    """Tiny ImageNet: 64 x 64 images of 200 classes; the test set is the labelled `val` split."""

    name: str = "tinyimagenet"
    classes: int = 200
    train_examples: int = 100_000
    test_examples: int = 10_000
    size: int = 64

    def problems(self, data_dir: Path, verify: bool = False) -> list[str]:
        """Return one line if the folder is missing, or for each incomplete split.

        With `verify`, also return one line for each unreadable image.
        """
        folder = data_dir / TINY.folder
        if not folder.is_dir():
            return [missing(folder, self.name, TINY)]
        expected = {"train": self.train_examples, "val": self.test_examples}
        advice = f"Delete {folder} and run {command_with('--download')}"
        splits = partial(self._splits, folder)
        return split_problems(folder, splits, expected, self.classes, advice, verify)

    def download(self, data_dir: Path) -> None:
        """Download the dataset if its folder is missing."""
        if not (data_dir / TINY.folder).exists():
            fetch(TINY, data_dir)

    def _splits(self, folder: Path) -> tuple[Files, Files]:
        names = class_names(folder / "train")
        labels = {name: label for label, name in enumerate(names)}
        lines = (folder / "val" / "val_annotations.txt").read_text().splitlines()
        rows = sorted(line.split("\t")[:2] for line in lines)
        test = Files(
            [str(folder / "val" / "images" / name) for name, _ in rows],
            [labels[wnid] for _, wnid in rows],
        )
        return list_images(folder / "train", names, "images"), test

    def load(self, loading: Loading) -> Data:
        """Load the dataset from a cache, which is created in the dataset's folder if possible."""
        folder = loading.data_dir / TINY.folder
        return load_folder(partial(self._splits, folder), folder, loading)


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Source):
    """`imagefolder:PATH`: PATH/train and PATH/test (or PATH/val), each with a folder per class.

    Attributes:
        path: The folder.
        test_split: Name of the test split's folder, `test` or `val`.
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
        train, test = (
            list_images(self.path / split, self.class_names) for split in ("train", self.test_split)
        )
        return train, test

    def problems(self, data_dir: Path, verify: bool = False) -> list[str]:
        """Return one line for each image that cannot be decoded, if `verify` is True.

        There is nothing else to check, because `image_folder` has checked the folders.
        """
        if not verify:
            return []
        return unreadable([path for files in self._splits() for path in files.paths])

    def load(self, loading: Loading) -> Data:
        """Load the dataset, from a cache if its images are small."""
        return load_folder(self._splits, self.path, loading)


def image_folder(path: str) -> ImageFolder:
    """Return the dataset in a folder.

    Raises:
        HyperparameterError: The folder or a split is missing, the classes of the splits differ, or
            a class has no images.
    """
    try:
        return _image_folder(path, user_path(path))
    except DataError as error:
        raise HyperparameterError(f"imagefolder:{path}: {error}") from error
    except OSError as error:
        raise unreadable_path(f"imagefolder:{path}", path, error) from error


@cache
def _image_folder(path: str, folder: Path) -> ImageFolder:
    splits = ("train", "test" if (folder / "test").is_dir() else "val")
    names, test_names = (class_names(folder / split) for split in splits)
    errors = [
        f"class {name} is in train, not in {splits[1]}" for name in names if name not in test_names
    ]
    errors += [
        f"class {name} is in {splits[1]}, not in train" for name in test_names if name not in names
    ]
    if len(names) < 2:
        errors.append(
            f"{counted(len(names), 'class', 'classes')} in train: at least 2 class folders are required"
        )
    _raise_errors(path, errors)
    train, test = (list_images(folder / split, names) for split in splits)
    labels_of = dict(zip(splits, (set(train.labels), set(test.labels)), strict=True))
    empty = [
        f"{split}/{name}"
        for split, labels in labels_of.items()
        for label, name in enumerate(names)
        if label not in labels
    ]
    _raise_errors(path, [f"{name} has no images ({', '.join(ENDINGS)})" for name in empty])
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


def _raise_errors(path: str, errors: Sequence[str]) -> None:
    if errors:
        raise HyperparameterError("\n".join(f"imagefolder:{path}: {line}" for line in errors))
