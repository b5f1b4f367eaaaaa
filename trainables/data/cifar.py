"""CIFAR-10 and CIFAR-100, read with torchvision.

Reference: Krizhevsky, Learning multiple layers of features from tiny images, 2009.

The files of the archives are pickles, which can run code when they are read. Each file is therefore
compared with its known digest first. For these files only MD5 digests are published (by
torchvision); for the archives SHA-256 digests are also known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from precond.counts import counted
from trainables.data.base import Data, DataError, Loading, Source
from trainables.data.cache import Pairs, arrays, stamp
from trainables.data.device import small_images
from trainables.data.fetch import Archive, command_with, fetch, mismatch, missing
from trainables.files import checksum

IMAGE_BYTES = 3 * 32 * 32


@dataclass(frozen=True, kw_only=True)
class Cifar(Source):
    """CIFAR-10 or CIFAR-100.

    Attributes:
        reader: Name of the class in `torchvision.datasets`.
        archive: The archive to download.
        files: MD5 digest and number of images of each file in the archive.
    """

    name: str
    classes: int
    reader: str
    archive: Archive
    files: Mapping[str, tuple[str, int]]
    train_examples: int = 50_000
    test_examples: int = 10_000
    size: int = 32

    def problems(self, data_dir: Path, verify: bool = False) -> list[str]:
        """Return one line for each missing or incomplete file.

        With `verify`, also return one line for each file with a different checksum.
        """
        folder = data_dir / self.archive.folder
        if not any((folder / name).exists() for name in self.files):
            return [missing(folder, self.name, self.archive)]
        return [line for name in self.files if (line := self._problem(folder / name, verify))]

    def _problem(self, path: Path, verify: bool) -> str | None:
        md5, images = self.files[path.name]
        if not path.is_file():
            return missing(path, self.name, self.archive)
        if path.stat().st_size < images * IMAGE_BYTES:
            size = counted(path.stat().st_size, "byte")
            sizes = f"{size}, {images:,} images need {images * IMAGE_BYTES:,}"
            return f"{path}: short file ({sizes}). Delete it and run {command_with('--download')}"
        if verify and (actual := checksum(path, "md5")) != md5:
            return mismatch(path, md5, actual)
        return None

    def download(self, data_dir: Path) -> None:
        """Download missing files; if an existing file is damaged, keep it and raise `DataError`."""
        folder = data_dir / self.archive.folder
        existing = [folder / name for name in self.files if (folder / name).exists()]
        if errors := [line for path in existing if (line := self._problem(path, verify=True))]:
            raise DataError("\n".join(errors))
        if len(existing) < len(self.files):
            fetch(self.archive, data_dir)

    def load(self, loading: Loading) -> Data:
        """Load the images from a cache, which is created in the folder of the files if possible."""
        folder = loading.data_dir / self.archive.folder
        if errors := self.problems(loading.data_dir):
            raise DataError(errors[0])
        key = f"{self.name}-{stamp(folder, [str(folder / name) for name in self.files])}"
        cached = arrays([folder, loading.data_dir], key, lambda: self._splits(loading.data_dir))
        assert cached is not None  # all images are of one size
        return small_images(cached, loading)

    def _splits(self, data_dir: Path) -> dict[str, Pairs]:
        if errors := self.problems(data_dir, verify=True):
            raise DataError(errors[0])
        from torchvision import datasets

        def pairs(train: bool) -> Pairs:
            data: Any = getattr(datasets, self.reader)(data_dir, train=train)
            return zip(torch.from_numpy(data.data).permute(0, 3, 1, 2), data.targets, strict=True)

        return {"train": pairs(True), "test": pairs(False)}


CIFAR10 = Cifar(
    name="cifar10",
    classes=10,
    reader="CIFAR10",
    archive=Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        megabytes=170,
        folder="cifar-10-batches-py",
    ),
    files={
        "data_batch_1": ("c99cafc152244af753f735de768cd75f", 10_000),
        "data_batch_2": ("d4bba439e000b95fd0a9bffe97cbabec", 10_000),
        "data_batch_3": ("54ebc095f3ab1f0389bbae665268c751", 10_000),
        "data_batch_4": ("634d18415352ddfa80567beed471001a", 10_000),
        "data_batch_5": ("482c414d41f54cd18b22e5b47cb7c3cb", 10_000),
        "test_batch": ("40351d587109b95175f43aff81a1287e", 10_000),
        "batches.meta": ("5ff9c542aee3614f3951f8cda6e48888", 0),
    },
)
CIFAR100 = Cifar(
    name="cifar100",
    classes=100,
    reader="CIFAR100",
    archive=Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        megabytes=169,
        folder="cifar-100-python",
    ),
    files={
        "train": ("16019d7e3df5f24257cddd939b257f8d", 50_000),
        "test": ("f0ef6b0ae62326f3e7ffdfab6717acfc", 10_000),
        "meta": ("7973b15100ade9c7d40fb424638fde48", 0),
    },
)
