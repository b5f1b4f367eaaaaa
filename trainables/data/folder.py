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
from trainables.data.fetch import Archive, again, fetch, missing
from trainables.data.images import ENDINGS, Files, class_names, listed, read_image, unreadable
from trainables.data.loader import LoaderData

SMALL = 64  # pixels; images up to this size are cached as bytes
LARGE_SIZE = 224  # pixels; larger images are resized to it where the recipe sets no size
MEAN, DEVIATION = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # of ImageNet, used for every folder of large images


def load_folder(splits: Callable[[], tuple[Files, Files]], folder: Path, loading: Loading) -> Data:
    """Load a folder for a trial; `splits` lists the training and the test images."""
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
    labels = torch.tensor(train.labels), torch.tensor(test.labels)
    return LoaderData(
        Images(train, labels[0], test, labels[1], MEAN, DEVIATION, LARGE_SIZE), loading
    )


@dataclass(frozen=True)
class ImageNet(Source):
    """ILSVRC 2012: `imagenet/train/<wnid>/*.JPEG` and `imagenet/val/<wnid>/*.JPEG`; it requires a registration."""

    name: str = "imagenet"
    classes: int = 1000
    train_examples: int = 1_281_167
    test_examples: int = 50_000
    size: int = 224

    def problems(self, data_dir: Path, verify: bool = False) -> list[str]:
        """Return one line for each missing or short split; with `verify`, for each unreadable image."""
        folder = data_dir / "imagenet"
        how = (
            "Register at image-net.org, then unpack ILSVRC2012_img_train.tar (138 GB) to train/<wnid>/ and "
            "ILSVRC2012_img_val.tar (6 GB) to val/<wnid>/, or name the folder that has imagenet/ with --data-dir"
        )
        counts = {"train": self.train_examples, "val": self.test_examples}
        errors = []
        for split, expected in counts.items():
            if not (folder / split).is_dir():
                errors.append(f"{folder / split}: not found (imagenet, 144 GB). {how}")
                continue
            names = class_names(folder / split)
            images = len(listed(folder / split, names))
            if len(names) != self.classes or images != expected:
                have = f"{images} images in {len(names)} classes, not {expected} in {self.classes}"
                errors.append(f"{folder / split}: {have}. {how}")
        if verify and not errors:
            errors = unreadable([path for split in self._splits(folder) for path in split.paths])
        return errors

    def _splits(self, folder: Path) -> tuple[Files, Files]:
        names = class_names(folder / "train")
        return listed(folder / "train", names), listed(folder / "val", names)

    def load(self, loading: Loading) -> Data:
        """Load the images, which workers read."""
        folder = loading.data_dir / "imagenet"
        return load_folder(lambda: self._splits(folder), folder, loading)


TINY = Archive(
    url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    md5="90528d7ca1a48142e341f4ef8d21d0de",
    sha256=None,
    megabytes=248,
    folder="tiny-imagenet-200",
)


@dataclass(frozen=True)
class TinyImageNet(Source):
    """Tiny ImageNet: 64 x 64 images of 200 classes, tested on its labelled `val` split."""

    name: str = "tinyimagenet"
    classes: int = 200
    train_examples: int = 100_000
    test_examples: int = 10_000
    size: int = 64

    def problems(self, data_dir: Path, verify: bool = False) -> list[str]:
        """Return one line if it is missing or short; with `verify`, one for each unreadable image."""
        folder = data_dir / TINY.folder
        if not folder.is_dir():
            return [missing(folder, self.name, TINY)]
        try:
            train, test = self._splits(folder)
        except (OSError, ValueError, KeyError) as error:
            return [
                f"{folder}: not as it should be ({error}). Delete it and run {again('--download')}"
            ]
        if (len(train), len(test)) != (self.train_examples, self.test_examples):
            have = f"{len(train)} and {len(test)} images, not {self.train_examples} and {self.test_examples}"
            return [f"{folder}: {have}. Delete it and run {again('--download')}"]
        return unreadable([*train.paths, *test.paths]) if verify else []

    def download(self, data_dir: Path) -> None:
        """Fetch it if its folder is missing."""
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
        return listed(folder / "train", names, "images"), test

    def load(self, loading: Loading) -> Data:
        """Load the images onto the device, from a cache in the folder."""
        folder = loading.data_dir / TINY.folder
        return load_folder(lambda: self._splits(folder), folder, loading)


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
        return listed(self.path / "train", self.class_names), listed(
            self.path / self.test_split, self.class_names
        )

    def problems(self, data_dir: Path, verify: bool = False) -> list[str]:
        """With `verify`, return one line for each image that cannot be decoded; `image_folder` checked the folder."""
        return (
            unreadable([path for split in self._splits() for path in split.paths]) if verify else []
        )

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
        place = (
            ""
            if Path(path).expanduser().is_absolute()
            else "; a relative path is one below --data-dir"
        )
        raise HyperparameterError(
            f"imagefolder:{path}: {error.filename}: {error.strerror}{place}"
        ) from error


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
        errors.append(f"{len(names)} classes in train: at least 2, a folder for each")
    _refuse(path, errors)
    train, test = (listed(folder / split, names) for split in splits)
    filled = zip(splits, (set(train.labels), set(test.labels)), strict=True)
    empty = [
        f"{split}/{name}"
        for split, labels in filled
        for label, name in enumerate(names)
        if label not in labels
    ]
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
