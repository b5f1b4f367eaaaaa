"""Tests of downloaded data.

Missing, short, damaged and malicious files are reported. Damaged files are never replaced, and
malicious files are never executed.
"""

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
from trainables.data.fetch import Archive, command_with, fetch
from trainables.data.folder import TINY, ImageNet, TinyImageNet
from trainables.workloads import prepare_data, resolve

CPU = torch.device("cpu")
IMAGES_PER_FILE = 6


class TouchWhenUnpickled:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def write_batches(folder: Path) -> dict[str, tuple[str, int]]:
    """Write a small CIFAR-10 of random pixels.

    Returns:
        The digest and the number of images of each file.
    """
    folder.mkdir(parents=True)
    files = {}
    for number, name in enumerate(CIFAR10.files):
        generator = torch.Generator().manual_seed(number)
        images = 0 if name == "batches.meta" else IMAGES_PER_FILE
        pixels = torch.randint(256, (images, 3072), generator=generator).to(torch.uint8).numpy()
        entry = {"data": pixels, "labels": list(range(images)), "label_names": list("abcdefghij")}
        content = pickle.dumps(entry)
        (folder / name).write_bytes(content)
        files[name] = hashlib.md5(content).hexdigest(), images
    return files


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cifar]:
    """A small CIFAR-10 in `data`, with its archive on a local server."""
    files = write_batches(tmp_path / "data" / "cifar-10-batches-py")
    served = tmp_path / "served"
    served.mkdir()
    with tarfile.open(served / "small.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "data" / "cifar-10-batches-py", "cifar-10-batches-py")
    content = (served / "small.tar.gz").read_bytes()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=served)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    train_list = [[name, md5] for name, (md5, _) in [*files.items()][:5]]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", train_list)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", files["test_batch"][0]]])
    meta = {**datasets.CIFAR10.meta, "md5": files["batches.meta"][0]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    dataset = replace(
        CIFAR10,
        files=files,
        archive=Archive(
            url=f"http://127.0.0.1:{server.server_port}/small.tar.gz",
            md5=hashlib.md5(content).hexdigest(),
            sha256=hashlib.sha256(content).hexdigest(),
            megabytes=1,
            folder="cifar-10-batches-py",
        ),
    )
    monkeypatch.setattr("trainables.data.cifar.CIFAR10", dataset)
    monkeypatch.setattr(sys, "argv", ["studies/some.py", "--seeds", "1"])
    yield dataset
    server.shutdown()
    server.server_close()


def test_cifar_file_lists_equal_torchvision():
    for dataset, peer in ((CIFAR10, datasets.CIFAR10), (CIFAR100, datasets.CIFAR100)):
        digests = dict([*peer.train_list, *peer.test_list])
        digests[peer.meta["filename"]] = peer.meta["md5"]
        assert {name: md5 for name, (md5, _) in dataset.files.items()} == digests
        archive = dataset.archive
        assert (archive.url, archive.md5) == (peer.url, peer.tgz_md5)
        assert archive.folder == peer.base_folder
        assert (
            sum(images for _, images in dataset.files.values()) == dataset.train_examples + 10_000
        )


def test_cifar_images_equal_torchvision(cifar: Cifar, tmp_path: Path):
    assert cifar.problems(tmp_path / "data", verify=True) == []
    data = cifar.load(Loading(device=CPU, data_dir=tmp_path / "data", settings={}))
    peer = datasets.CIFAR10(tmp_path / "data", train=False)
    ((inputs, labels),) = data.test_batches()
    pixels = torch.from_numpy(peer.data).permute(0, 3, 1, 2)
    restored = (inputs - data._shift) / data._scale
    assert restored.round().to(torch.uint8).equal(pixels) and labels.tolist() == peer.targets
    assert (data.train_examples, data.evaluation_examples) == (5 * IMAGES_PER_FILE, IMAGES_PER_FILE)


def test_missing_and_short_files_are_reported_with_size_and_command(cifar: Cifar, tmp_path: Path):
    command = "python studies/some.py --seeds 1 --download"
    (line,) = cifar.problems(tmp_path / "nowhere")
    missing_folder = f"{tmp_path}/nowhere/cifar-10-batches-py"
    assert line.startswith(
        f"{missing_folder}: not found (cifar10, 1 MB to download). Run {command}"
    )
    folder = tmp_path / "data" / "cifar-10-batches-py"
    (folder / "test_batch").unlink()
    (folder / "data_batch_2").write_bytes(b"short")
    short, missing = cifar.problems(tmp_path / "data")
    sizes = f"5 bytes, {IMAGES_PER_FILE} images need 18,432"
    assert f"data_batch_2: short file ({sizes}). Delete it and run {command}" in short
    assert "test_batch: not found" in missing


def test_pickle_with_a_different_digest_is_never_opened(cifar: Cifar, tmp_path: Path):
    path = tmp_path / "data" / "cifar-10-batches-py" / "data_batch_3"
    malicious = pickle.dumps([TouchWhenUnpickled(tmp_path / "ran"), b"." * 20_000])
    path.write_bytes(malicious)
    expected = f"{path}: checksum mismatch (expected {cifar.files['data_batch_3'][0][:8]}.., got "
    assert cifar.problems(tmp_path / "data") == []  # without `verify`, only the sizes are checked
    (line,) = cifar.problems(tmp_path / "data", verify=True)
    assert line.startswith(expected)
    assert line.endswith("Delete it and run python studies/some.py --seeds 1 --download")
    with pytest.raises(DataError, match="checksum mismatch"):
        cifar.load(Loading(device=CPU, data_dir=tmp_path / "data", settings={}))
    (line,) = prepare_data(["cifar10/resnet32"], tmp_path / "data", download=True)
    assert line.startswith(expected) and path.read_bytes() == malicious
    assert not (tmp_path / "ran").exists()
    pickle.loads(malicious)
    assert (tmp_path / "ran").exists()  # so opening the pickle would have run its code


def test_flipped_bit_is_detected(cifar: Cifar, tmp_path: Path):
    path = tmp_path / "data" / "cifar-10-batches-py" / "test_batch"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    (line,) = prepare_data(["cifar10/resnet32"], tmp_path / "data", verify=True)
    assert "test_batch: checksum mismatch" in line


def test_missing_dataset_is_downloaded_only_on_request(cifar: Cifar, tmp_path: Path):
    data_dir = tmp_path / "new"
    assert "not found" in prepare_data(["cifar10/resnet32", "cifar10/lenet5"], data_dir)[0]
    assert not data_dir.exists()
    assert prepare_data(["cifar10/resnet32"], data_dir, download=True, verify=True) == []
    (data_dir / "cifar-10-batches-py" / "data_batch_1").unlink()
    assert prepare_data(["cifar10/resnet32"], data_dir, download=True) == []
    cifar.load(Loading(device=CPU, data_dir=data_dir, settings={}))


def test_archive_with_a_different_digest_is_not_unpacked(cifar: Cifar, tmp_path: Path):
    expected = r"small\.tar\.gz: checksum mismatch \(expected 00000000\.\."
    with pytest.raises(DataError, match=expected):
        fetch(replace(cifar.archive, sha256="0" * 64), tmp_path / "new")
    assert not (tmp_path / "new" / "cifar-10-batches-py").exists()
    with pytest.raises(DataError, match="try again, or put the archive into"):
        fetch(replace(cifar.archive, url=cifar.archive.url + ".gone"), tmp_path / "new")


@pytest.mark.parametrize("dataset", ["cifar10", "imagefolder:pictures"])
def test_trials_without_ray_are_refused_if_data_are_missing(
    dataset: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    config = replace(resolve("digits/cnn", "sgd"), workload=f"{dataset}/resnet32")
    trials, out = tmp_path / "trials.jsonl", tmp_path / "out"
    trials.write_text(json.dumps({"key": config.trial_key, "config": config.to_dict()}))
    monkeypatch.setenv("PRECOND_DATA", "unused")  # `main` sets it, monkeypatch restores it
    assert main([str(trials), "--out", str(out), "--data-dir", str(tmp_path / "data")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and str(tmp_path / "data") in line and "--data-dir" in line
    assert not out.exists() and not (tmp_path / "data").exists()


def test_command_with_appends_a_flag_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/trainables/__main__.py", "a b", "--download"])
    assert command_with("--download") == "python -m trainables 'a b' --download"


def create_empty_images(folder: Path, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number}.JPEG").touch()


def test_imagenet_is_read_from_folders_train_and_val_of_classes(tmp_path: Path):
    train, val = ImageNet().problems(tmp_path)
    assert "imagenet/train: not found (imagenet, 144 GB)" in train
    assert "imagenet/val: not found" in val
    dataset = ImageNet(classes=2, train_examples=5, test_examples=2)
    create_empty_images(tmp_path / "imagenet" / "train", {"n01": 3, "n02": 2})
    create_empty_images(tmp_path / "imagenet" / "val", {"n01": 1, "n02": 1})
    assert dataset.problems(tmp_path) == []
    assert len(dataset.problems(tmp_path, verify=True)) == 7  # the files are empty
    (tmp_path / "imagenet" / "train" / "n01" / "0.JPEG").unlink()
    (line,) = dataset.problems(tmp_path)
    assert "train: 4 images in 2 classes, not 5 in 2. Register at image-net.org" in line
    (tmp_path / "imagenet" / "val" / "n02").rename(tmp_path / "imagenet" / "val" / "n03")
    (line,) = dataset.problems(tmp_path)
    assert "imagenet: incomplete or damaged" in line and "val/n02" in line


def test_tiny_imagenet_reads_test_labels_from_the_annotations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from PIL import Image

    monkeypatch.setattr(sys, "argv", ["studies/some.py"])
    assert "not found (tinyimagenet, 248 MB to download)" in TinyImageNet().problems(tmp_path)[0]
    folder = tmp_path / TINY.folder
    dataset = TinyImageNet(classes=2, train_examples=4, test_examples=2)
    create_empty_images(folder / "train", {"n01/images": 2, "n02/images": 2})
    create_empty_images(folder / "val", {"images": 2})
    for number, path in enumerate(sorted(folder.rglob("*.JPEG"))):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(path)
    assert "incomplete or damaged" in dataset.problems(tmp_path)[0]
    (folder / "val" / "val_annotations.txt").write_text(
        "1.JPEG\tn01\t0\t0\t9\t9\n0.JPEG\tn02\t0\t0\t9\t9\n"
    )
    assert dataset.problems(tmp_path, verify=True) == []
    train, val = TinyImageNet().problems(tmp_path)
    assert "train: 4 images in 2 classes, not 100,000 in 200" in train
    assert "val: 2 images in 2 classes, not 10,000 in 200" in val
    settings = {"crop_padding": 4, "flip": True}
    data = dataset.load(Loading(device=CPU, data_dir=tmp_path, settings=settings))
    ((_, labels),) = data.test_batches()
    assert labels.tolist() == [1, 0] and data.train_examples == 4
    assert next(iter(data.train_batches(4, 0)))[0].shape == (4, 3, 64, 64)


def test_datasets_are_registered_by_name(tmp_path: Path):
    names = ("digits", "cifar10", "cifar100", "tinyimagenet", "imagenet")
    sources = [source(name) for name in names]
    assert tuple(dataset.name for dataset in sources) == names
    assert [dataset.classes for dataset in sources] == [10, 10, 100, 200, 1000]
    assert all(dataset.problems(tmp_path) for dataset in sources[1:])
