"""Data from outside: missing, short, damaged or malicious files are one line each, and nothing is replaced or run."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import pickle
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision import datasets

from trainables.__main__ import main
from trainables.data import DataError, Loading, source
from trainables.data.cifar import CIFAR10, CIFAR100, Cifar
from trainables.data.fetch import Archive, again, fetch
from trainables.data.folder import TINY, ImageNet, TinyImageNet
from trainables.workloads import ready, resolve

CPU = torch.device("cpu")
IMAGES = 6  # of each file


class Payload:
    """Unpickled, it runs code."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def write_batches(folder: Path) -> dict[str, tuple[str, int]]:
    """The members of a little CIFAR-10, of random pixels; their digests."""
    folder.mkdir(parents=True)
    files = {}
    for number, name in enumerate(CIFAR10.files):
        generator = torch.Generator().manual_seed(number)
        images = 0 if name == "batches.meta" else IMAGES
        pixels = torch.randint(256, (images, 3072), generator=generator).to(torch.uint8).numpy()
        entry = {"data": pixels, "labels": list(range(images)), "label_names": list("abcdefghij")}
        content = pickle.dumps(entry)
        (folder / name).write_bytes(content)
        files[name] = hashlib.md5(content).hexdigest(), images
    return files


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cifar]:
    """A little CIFAR-10 in `data`, and an archive of it on a server of this machine."""
    files = write_batches(tmp_path / "data" / "cifar-10-batches-py")
    served = tmp_path / "served"
    served.mkdir()
    with tarfile.open(served / "little.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "data" / "cifar-10-batches-py", "cifar-10-batches-py")
    content = (served / "little.tar.gz").read_bytes()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=served)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(
        datasets.CIFAR10, "train_list", [[name, md5] for name, (md5, _) in [*files.items()][:5]]
    )
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", files["test_batch"][0]]])
    monkeypatch.setattr(
        datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": files["batches.meta"][0]}
    )
    little = replace(
        CIFAR10,
        files=files,
        archive=Archive(
            url=f"http://127.0.0.1:{server.server_port}/little.tar.gz",
            md5=hashlib.md5(content).hexdigest(),
            sha256=hashlib.sha256(content).hexdigest(),
            megabytes=1,
            folder="cifar-10-batches-py",
        ),
    )
    monkeypatch.setattr("trainables.data.cifar.CIFAR10", little)
    monkeypatch.setattr(sys, "argv", ["studies/some.py", "--seeds", "1"])
    yield little
    server.shutdown()
    server.server_close()


def test_the_lists_are_torchvisions():
    for mine, theirs in ((CIFAR10, datasets.CIFAR10), (CIFAR100, datasets.CIFAR100)):
        listed = dict([*theirs.train_list, *theirs.test_list])
        listed[theirs.meta["filename"]] = theirs.meta["md5"]
        assert {name: md5 for name, (md5, _) in mine.files.items()} == listed
        assert (mine.archive.url, mine.archive.md5, mine.archive.folder) == (
            theirs.url,
            theirs.tgz_md5,
            theirs.base_folder,
        )
        assert sum(images for _, images in mine.files.values()) == mine.train_examples + 10_000


def test_cifar_is_what_torchvision_reads(cifar: Cifar, tmp_path: Path):
    assert cifar.problems(tmp_path / "data", verify=True) == []
    data = cifar.load(Loading(device=CPU, data_dir=tmp_path / "data", settings={}))
    theirs = datasets.CIFAR10(tmp_path / "data", train=False)
    ((inputs, labels),) = data.test_batches()
    pixels = torch.from_numpy(theirs.data).permute(0, 3, 1, 2)
    restored = (inputs - data._shift) / data._scale
    assert restored.round().to(torch.uint8).equal(pixels) and labels.tolist() == theirs.targets
    assert (data.train_examples, data.evaluation_examples) == (5 * IMAGES, IMAGES)


def test_missing_and_short_files_are_a_line_with_path_size_and_command(
    cifar: Cifar, tmp_path: Path
):
    command = "python studies/some.py --seeds 1 --download"
    (line,) = cifar.problems(tmp_path / "nowhere")
    assert line.startswith(
        f"{tmp_path}/nowhere/cifar-10-batches-py: not found (cifar10, 1 MB to download). Run {command}"
    )
    folder = tmp_path / "data" / "cifar-10-batches-py"
    (folder / "test_batch").unlink()
    (folder / "data_batch_2").write_bytes(b"short")
    short, missing = cifar.problems(tmp_path / "data")
    assert (
        f"data_batch_2: short file (5 bytes, {IMAGES} images need 18432). Delete it and run {command}"
        in short
    )
    assert "test_batch: not found" in missing


def test_a_pickle_that_is_not_the_known_one_is_named_and_never_opened(cifar: Cifar, tmp_path: Path):
    path = tmp_path / "data" / "cifar-10-batches-py" / "data_batch_3"
    evil = pickle.dumps([Payload(tmp_path / "ran"), b"." * 20_000])
    path.write_bytes(evil)
    expected = f"{path}: checksum mismatch (expected {cifar.files['data_batch_3'][0][:8]}.., got "
    assert cifar.problems(tmp_path / "data") == []  # sizes alone
    (line,) = cifar.problems(tmp_path / "data", verify=True)
    assert line.startswith(expected) and line.endswith(
        "Delete it and run python studies/some.py --seeds 1 --download"
    )
    with pytest.raises(DataError, match="checksum mismatch"):
        cifar.load(Loading(device=CPU, data_dir=tmp_path / "data", settings={}))
    (line,) = ready(["cifar10/resnet32"], tmp_path / "data", download=True)
    assert (
        line.startswith(expected) and path.read_bytes() == evil and not (tmp_path / "ran").exists()
    )
    pickle.loads(evil)
    assert (tmp_path / "ran").exists()  # it would have


def test_a_flipped_bit_is_found(cifar: Cifar, tmp_path: Path):
    path = tmp_path / "data" / "cifar-10-batches-py" / "test_batch"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    assert (
        "test_batch: checksum mismatch"
        in ready(["cifar10/resnet32"], tmp_path / "data", verify=True)[0]
    )


def test_a_missing_dataset_is_fetched_only_where_that_is_wanted(cifar: Cifar, tmp_path: Path):
    where = tmp_path / "new"
    assert (
        "not found" in ready(["cifar10/resnet32", "cifar10/lenet5"], where)[0]
        and not where.exists()
    )
    assert ready(["cifar10/resnet32"], where, download=True, verify=True) == []
    (where / "cifar-10-batches-py" / "data_batch_1").unlink()
    assert ready(["cifar10/resnet32"], where, download=True) == []
    cifar.load(Loading(device=CPU, data_dir=where, settings={}))


def test_an_archive_that_is_not_the_known_one_is_not_unpacked(cifar: Cifar, tmp_path: Path):
    with pytest.raises(
        DataError, match=r"little\.tar\.gz: checksum mismatch \(expected 00000000\.\."
    ):
        fetch(replace(cifar.archive, sha256="0" * 64), tmp_path / "new")
    assert not (tmp_path / "new" / "cifar-10-batches-py").exists()
    with pytest.raises(DataError, match="try again, or put the archive into"):
        fetch(replace(cifar.archive, url=cifar.archive.url + ".gone"), tmp_path / "new")


@pytest.mark.parametrize("dataset", ["cifar10", "imagefolder:pictures"])
def test_trials_in_this_process_are_refused_without_their_data(
    dataset: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    config = replace(resolve("digits/cnn", "sgd"), workload=f"{dataset}/resnet32")
    trials, out = tmp_path / "trials.jsonl", tmp_path / "out"
    trials.write_text(json.dumps({"key": config.trial_key, "config": config.to_dict()}))
    monkeypatch.setenv("PRECOND_DATA", "restored afterwards")
    assert main([str(trials), "--out", str(out), "--data-dir", str(tmp_path / "data")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and str(tmp_path / "data") in line and "--data-dir" in line
    assert not out.exists() and not (tmp_path / "data").exists()


def test_the_command_to_repeat(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/trainables/__main__.py", "a b", "--download"])
    assert again("--download") == "python -m trainables 'a b' --download"


def touch_images(folder: Path, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number}.JPEG").touch()


def test_imagenet_is_found_in_its_usual_layout(tmp_path: Path):
    train, val = ImageNet().problems(tmp_path)
    assert (
        "imagenet/train: not found (imagenet, 144 GB)" in train and "imagenet/val: not found" in val
    )
    little = ImageNet(classes=2, train_examples=5, test_examples=2)
    touch_images(tmp_path / "imagenet" / "train", {"n01": 3, "n02": 2})
    touch_images(tmp_path / "imagenet" / "val", {"n01": 1, "n02": 1})
    assert little.problems(tmp_path) == []
    assert len(little.problems(tmp_path, verify=True)) == 7  # empty files are no images
    (tmp_path / "imagenet" / "train" / "n01" / "0.JPEG").unlink()
    assert "train: 4 images in 2 classes, not 5 in 2" in little.problems(tmp_path)[0]


def test_tiny_imagenet_takes_its_labels_from_the_annotations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from PIL import Image

    monkeypatch.setattr(sys, "argv", ["studies/some.py"])
    assert "not found (tinyimagenet, 248 MB to download)" in TinyImageNet().problems(tmp_path)[0]
    folder, little = tmp_path / TINY.folder, TinyImageNet(train_examples=4, test_examples=2)
    touch_images(folder / "train", {"n01/images": 2, "n02/images": 2})
    touch_images(folder / "val", {"images": 2})
    for number, path in enumerate(sorted(folder.rglob("*.JPEG"))):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(path)
    assert "not as it should be" in little.problems(tmp_path)[0]
    (folder / "val" / "val_annotations.txt").write_text(
        "1.JPEG\tn01\t0\t0\t9\t9\n0.JPEG\tn02\t0\t0\t9\t9\n"
    )
    assert little.problems(tmp_path, verify=True) == []
    assert "4 and 2 images, not 100000 and 10000" in TinyImageNet().problems(tmp_path)[0]
    data = little.load(
        Loading(device=CPU, data_dir=tmp_path, settings={"crop_padding": 4, "flip": True})
    )
    ((_, labels),) = data.test_batches()
    assert labels.tolist() == [1, 0] and data.train_examples == 4
    assert next(iter(data.train_batches(4, 0)))[0].shape == (4, 3, 64, 64)


def test_every_dataset_is_known_by_its_name(tmp_path: Path):
    facts = {
        name: source(name) for name in ("digits", "cifar10", "cifar100", "tinyimagenet", "imagenet")
    }
    assert {name: found.name for name, found in facts.items()} == {name: name for name in facts}
    assert [found.classes for found in facts.values()] == [10, 10, 100, 200, 1000]
    assert all(found.problems(tmp_path) for name, found in facts.items() if name != "digits")
