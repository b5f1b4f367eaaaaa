"""ImageNet and Tiny ImageNet, in the layouts that their archives are usually unpacked to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainables.data.base import Data, Loading, Source
from trainables.data.fetch import Archive, again, fetch, missing
from trainables.data.folder import load_folder
from trainables.data.images import Files, class_names, listed, unreadable


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
        wrong = []
        for split, expected in counts.items():
            if not (folder / split).is_dir():
                wrong.append(f"{folder / split}: not found (imagenet, 144 GB). {how}")
                continue
            names = class_names(folder / split)
            found = len(listed(folder / split, names))
            if len(names) != self.classes or found != expected:
                have = f"{found} images in {len(names)} classes, not {expected} in {self.classes}"
                wrong.append(f"{folder / split}: {have}. {how}")
        if verify and not wrong:
            wrong = unreadable([path for split in self._splits(folder) for path in split.paths])
        return wrong

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
            return [f"{folder}: not as it should be ({error}). Delete it and run {again('--download')}"]
        if (len(train), len(test)) != (self.train_examples, self.test_examples):
            have = f"{len(train)} and {len(test)} images, not {self.train_examples} and {self.test_examples}"
            return [f"{folder}: {have}. Delete it and run {again('--download')}"]
        return unreadable([*train.paths, *test.paths]) if verify else []

    def download(self, data_dir: Path) -> None:
        """Fetch it if its folder is missing; raises `DataError`."""
        if not (data_dir / TINY.folder).exists():
            fetch(TINY, data_dir)

    def _splits(self, folder: Path) -> tuple[Files, Files]:
        names = class_names(folder / "train")
        labels = {name: label for label, name in enumerate(names)}
        lines = (folder / "val" / "val_annotations.txt").read_text().splitlines()
        rows = sorted(line.split("\t")[:2] for line in lines)
        test = Files([str(folder / "val" / "images" / name) for name, _ in rows], [labels[wnid] for _, wnid in rows])
        return listed(folder / "train", names, "images"), test

    def load(self, loading: Loading) -> Data:
        """Load the images onto the device, from a cache in the folder."""
        folder = loading.data_dir / TINY.folder
        return load_folder(lambda: self._splits(folder), folder, loading)
