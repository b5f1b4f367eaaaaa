"""Tests of datasets: augmentation, seeds, ranks, worker processes, caches and invalid input."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
import torch
from images import CLASSES, make_folder, paint
from PIL import Image
from torch import Tensor
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from torchvision.transforms.v2 import functional as tv_functional

from precond import HyperparameterError
from trainables.data import DataError, Loading, augment, images, source
from trainables.data.base import Data
from trainables.data.cache import channel_statistics
from trainables.data.device import DeviceData
from trainables.data.digits import Digits, _tensors
from trainables.data.folder import image_folder
from trainables.data.images import read_image
from trainables.data.loader import LoaderData
from trainables.data.order import held_out, share
from trainables.data.transforms import NoisyRandAugment

CPU = torch.device("cpu")
AUGMENTED = {"crop_padding": 2, "flip": True, "random_erasing": 0.5}
WORKERS = {
    "random_resized_crop": True,
    "flip": True,
    "resolution": 12,
    "randaugment": (9, 0.5),
    **AUGMENTED,
}


@pytest.fixture
def small_images(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "small")


@pytest.fixture
def large_images(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "large", side=70, mixed=True)


def loading(path: Path, settings: Mapping[str, Any] = {}, **fields: Any) -> Loading:
    return Loading(device=CPU, data_dir=path.parent / "data", settings=settings, **fields)


def load(path: Path, settings: Mapping[str, Any] = {}, **fields: Any) -> Data:
    return source(f"imagefolder:{path}").load(loading(path, settings, **fields))


def equal_batches(first: Iterator, second: Iterator) -> bool:
    """Return True if two iterators yield equal batches, at least one."""
    pairs = list(zip(first, second, strict=True))
    return bool(pairs) and all(a.equal(c) and b.equal(d) for (a, b), (c, d) in pairs)


# ---------------------------------------------------------------------- augmentation


def test_crop_and_flip_equal_a_loop_over_images():
    images = torch.randint(256, (40, 3, 9, 9), dtype=torch.uint8)
    offsets, flipped = torch.randint(7, (40, 2)), torch.rand(40) < 0.5
    augmented = augment.flip(augment.crop(images, offsets, 3), flipped)
    draws = zip(offsets.tolist(), flipped, strict=True)
    for image, ((top, left), mirrored), actual in zip(images, draws, augmented, strict=True):
        padded = torch.zeros(3, 15, 15, dtype=torch.uint8)
        padded[:, 3:12, 3:12] = image
        window = padded[:, top : top + 9, left : left + 9]
        assert actual.equal(window.flip(-1) if mirrored else window)
        expected = tv_functional.crop(tv_functional.pad(image, [3]), top, left, 9, 9)
        assert actual.equal(tv_functional.horizontal_flip(expected) if mirrored else expected)


def test_augmented_epoch_equals_its_draws_applied_to_each_image(small_images: Path):
    data = load(small_images, AUGMENTED)
    assert isinstance(data, DeviceData)
    draws = data._draw(torch.Generator().manual_seed(5))
    files = image_folder(str(small_images))._splits()[0]
    raw = [tv_functional.pil_to_tensor(read_image(path)) for path in files.paths]
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in channel_statistics(torch.stack(raw)))
    count = 0
    for inputs, labels in data.train_batches(4, seed=5):
        for image, label in zip(inputs, labels, strict=True):
            position, (top, left) = int(draws["order"][count]), draws["offsets"][count].tolist()
            expected = tv_functional.crop(tv_functional.pad(raw[position], [2]), top, left, 8, 8)
            if draws["flipped"][count]:
                expected = tv_functional.horizontal_flip(expected)
            expected = (expected / 255 - mean) / deviation
            top, left, bottom, right = draws["boxes"][count].tolist()
            expected[:, top:bottom, left:right] = 0
            torch.testing.assert_close(image, expected, atol=1e-5, rtol=1e-5)
            assert label == files.labels[position]
            count += 1
    assert count == 28 and draws["offsets"].unique().tolist() == [0, 1, 2, 3, 4]
    assert 0 < draws["flipped"].sum() < 30 and len(draws["order"].unique()) == 30


def test_training_set_is_normalised_per_channel(small_images: Path):
    inputs = torch.cat([x for x, _ in load(small_images).train_batches(30, seed=0)]).double()
    torch.testing.assert_close(inputs.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        inputs.std((0, 2, 3), correction=0), torch.ones(3).double(), atol=1e-6, rtol=0
    )


def test_channel_statistics_equal_mean_and_deviation_of_all_pixels():
    images = torch.randint(256, (2000, 3, 5, 5), dtype=torch.uint8)
    images[:, 2] = 7
    mean, deviation = channel_statistics(images)
    pixels = images.double() / 255
    torch.testing.assert_close(torch.tensor(mean).double(), pixels.mean((0, 2, 3)))
    torch.testing.assert_close(
        torch.tensor(deviation).double(), pixels.std((0, 2, 3), correction=0)
    )


def test_constant_channel_is_finite_after_normalisation(tmp_path: Path):
    for path in make_folder(tmp_path / "grey").rglob("*.png"):
        Image.new("RGB", (8, 8), (9, 9, 9)).save(path)
    inputs, _ = next(load(tmp_path / "grey").train_batches(4, seed=0))
    assert inputs.abs().max() < 1e-5


@pytest.mark.parametrize("size", [5, 8, 20])
def test_resize_equals_torchvision(small_images: Path, size: int):
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(
        augment.resize(images, size), tv_functional.resize(images, [size, size], antialias=True)
    )
    data = load(small_images, {"resolution": size, "test_resolution": 6, "random_erasing": 1.0})
    assert next(data.train_batches(4, seed=0))[0].shape == (4, 3, size, size)
    assert next(data.test_batches())[0].shape == (9, 3, 6, 6)


def test_erased_boxes_are_inside_the_image_and_distributed_as_in_torchvision():
    boxes = augment.draw_boxes(4000, 32, 0.25, torch.Generator().manual_seed(0))
    height, width = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    erased = height * width > 0
    assert boxes.min() >= 0 and boxes.max() <= 32 and abs(erased.float().mean() - 0.25) < 0.03
    torch.manual_seed(0)
    image = torch.ones(1, 32, 32)
    from torchvision.transforms.v2 import RandomErasing

    eraser = RandomErasing(p=1.0)
    params = [eraser.make_params([image]) for _ in range(1000)]
    expected = torch.tensor([p["h"] * p["w"] for p in params]).double()
    areas = (height * width)[erased].double()
    assert abs(areas.mean() - expected.mean()) < 10 and abs(areas.std() - expected.std()) < 8
    expected = torch.tensor([p["h"] / p["w"] for p in params]).log()
    ratios = (height / width)[erased].log()
    assert abs(ratios.mean() - expected.mean()) < 0.1
    assert abs(ratios.std() - expected.std()) < 0.06


def test_randaugment_magnitudes_are_normal_and_clamped(monkeypatch: pytest.MonkeyPatch):
    transform, magnitudes = NoisyRandAugment(9, 0.5), []
    for level, fixed in enumerate(transform._transforms):
        assert (fixed.magnitude, fixed.num_magnitude_bins, fixed.num_ops) == (level, 101, 2)
        monkeypatch.setattr(
            fixed, "forward", lambda image, level=level: magnitudes.append(level / 10)
        )
    torch.manual_seed(0)
    for _ in range(500):
        transform(None)
    drawn = torch.tensor(magnitudes)
    assert abs(drawn.mean() - 9) < 0.1 and abs(drawn.std() - 0.5) < 0.1 and drawn.max() <= 10


# ---------------------------------------------------------------------- seeds, ranks, held out


# Small images of one size are cached as bytes; large images are read from their files.
LOADERS = {
    "device": ("small_images", AUGMENTED),
    "workers": ("large_images", WORKERS),
    "workers, cached pixels": ("small_images", WORKERS),
}


@pytest.fixture(params=LOADERS)
def path_and_settings(request: pytest.FixtureRequest) -> tuple[Path, dict]:
    name, settings = LOADERS[request.param]
    return request.getfixturevalue(name), settings


def test_epoch_depends_only_on_its_seed(path_and_settings: tuple[Path, dict]):
    path, settings = path_and_settings
    first, second = load(path, settings), load(path, settings)
    # Neither an earlier epoch nor random numbers that other code draws may have an effect.
    for _ in first.train_batches(7, seed=1):
        torch.rand(3)
    assert equal_batches(first.train_batches(7, seed=2), second.train_batches(7, seed=2))
    assert not equal_batches(first.train_batches(7, seed=2), second.train_batches(7, seed=3))
    assert equal_batches(first.test_batches(4), second.test_batches(4))
    state = torch.get_rng_state()
    list(first.train_batches(7, seed=2))
    assert torch.get_rng_state().equal(state)


def test_shares_of_a_batch_equal_the_batch_of_one_process(path_and_settings: tuple[Path, dict]):
    path, settings = path_and_settings
    single = load(path, settings)
    ranks = [load(path, settings, rank=rank, ranks=3) for rank in range(3)]
    batches = [list(data.train_batches(7, seed=4)) for data in ranks]
    assert [len(b[0][1]) for b in batches] == [2, 2, 3]
    joined = (
        tuple(torch.cat(parts) for parts in zip(*step, strict=True))
        for step in zip(*batches, strict=True)
    )
    assert equal_batches(single.train_batches(7, seed=4), joined)
    assert all(equal_batches(single.test_batches(), data.test_batches()) for data in ranks)


def test_held_out_images_replace_the_test_set(path_and_settings: tuple[Path, dict]):
    path, settings = path_and_settings
    data = load(path, settings, train_fraction=0.7)
    assert (data.train_examples, data.evaluation_examples, data.steps_per_epoch(4)) == (21, 9, 5)
    labels = torch.cat([labels for _, labels in data.test_batches(4)])
    assert torch.bincount(labels).tolist() == [3, 3, 3]
    train, test = held_out(torch.tensor(image_folder(str(path))._splits()[0].labels), 0.7)
    assert not set(train.tolist()) & set(test.tolist()) and len(train) + len(test) == 30

    def images_of(batches: Iterator) -> set[tuple[float, ...]]:
        return {tuple(x.flatten()[:50].tolist()) for inputs, _ in batches for x in inputs}

    plain = {"resolution": 12, "test_resolution": 12}  # no random augmentation
    all_images = images_of(load(path, plain).train_batches(30, seed=0))
    part = load(path, plain, train_fraction=0.7)
    trained, tested = images_of(part.train_batches(21, seed=0)), images_of(part.test_batches())
    assert not trained & tested and trained | tested == all_images


def test_digits_are_divided_among_ranks_and_held_out():
    single = Digits().load(loading(Path("x")))
    ranks = [Digits().load(loading(Path("x"), rank=rank, ranks=2)) for rank in range(2)]
    batches = zip(*(data.train_batches(33, seed=1) for data in ranks), strict=True)
    joined = (tuple(map(torch.cat, zip(*step, strict=True))) for step in batches)
    assert equal_batches(single.train_batches(33, seed=1), joined)
    part = Digits().load(loading(Path("x"), train_fraction=0.9))
    assert part.train_examples + part.evaluation_examples == Digits().train_examples == 1197
    assert abs(part.evaluation_examples - 119.7) < 5 and part.test_inputs.shape[1:] == (1, 8, 8)


def test_digits_equal_scikit_learn_bitwise():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = map(
        torch.as_tensor,
        train_test_split(images, labels, test_size=600, stratify=labels, random_state=0),
    )
    train_x, test_x = (x.float().view(-1, 1, 8, 8) for x in (train_x, test_x))
    mean, deviation = train_x.mean(), train_x.std()
    expected = (train_x - mean) / deviation, train_y, (test_x - mean) / deviation, test_y
    for actual, tensor in zip(_tensors(), expected, strict=True):
        assert actual.dtype == tensor.dtype and torch.equal(actual, tensor)


def test_missing_scikit_learn_is_reported_before_digits_are_loaded(monkeypatch: pytest.MonkeyPatch):
    assert Digits().problems(Path("x")) == []
    monkeypatch.setattr("trainables.data.packaged.find_spec", lambda name: None)
    _tensors.cache_clear()
    [line] = Digits().problems(Path("x"))
    assert "pip install scikit-learn" in line
    with pytest.raises(DataError, match="scikit-learn"):
        Digits().load(loading(Path("x")))


def test_shares_of_all_ranks_cover_a_batch():
    for ranks in (1, 2, 3, 5):
        parts = [share(3, 11, rank, ranks) for rank in range(ranks)]
        assert [i for part in parts for i in range(part.start, part.stop)] == list(range(33, 44))


@pytest.mark.parametrize("settings", [{}, {"trivial_augment": True}])
def test_repeated_augmentation_yields_consecutive_copies(small_images: Path, settings: dict):
    data = load(
        small_images, {**settings, "repeated_augmentation": 3, "flip": True, "crop_padding": 2}
    )
    assert isinstance(data, LoaderData if settings else DeviceData)
    batches = list(data.train_batches(6, seed=0))
    assert len(batches) == 5
    for inputs, labels in batches:
        assert labels.view(2, 3).eq(labels.view(2, 3)[:, :1]).all()
        assert not inputs[0].equal(inputs[1]) or not inputs[0].equal(inputs[2])


# ---------------------------------------------------------------------- worker processes


def build_loader(path: Path, workers: int, settings: Mapping[str, Any] = WORKERS) -> LoaderData:
    data = load(path, settings)
    assert isinstance(data, LoaderData)
    data._workers = workers
    return data


def test_batches_do_not_depend_on_the_number_of_workers(large_images: Path):
    reference = list(build_loader(large_images, 0).train_batches(7, seed=3))
    for workers in (1, 2):
        assert equal_batches(
            iter(reference), build_loader(large_images, workers).train_batches(7, seed=3)
        )


def test_large_images_equal_torchvision_transforms(large_images: Path):
    from torchvision.transforms import v2

    settings = {
        "random_resized_crop": True,
        "flip": True,
        "trivial_augment": True,
        "resolution": 16,
    }
    data = build_loader(large_images, 0, settings)
    steps = [
        v2.RandomResizedCrop(16),
        v2.RandomHorizontalFlip(),
        v2.TrivialAugmentWide(),
        v2.PILToTensor(),
    ]
    files = image_folder(str(large_images))._splits()
    generator = torch.Generator().manual_seed(9)
    order = torch.randperm(30, generator=generator)
    seeds = torch.randint(2**62, (30,), generator=generator)
    mean, deviation = (
        torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )

    def assert_equal(actual: Tensor, pixels: Tensor) -> None:
        expected = (pixels / 255 - mean) / deviation
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)

    inputs = torch.cat([x for x, _ in data.train_batches(10, seed=9)])
    for actual, position, seed in zip(inputs, order.tolist(), seeds.tolist(), strict=True):
        torch.manual_seed(seed)
        image = Image.open(files[0].paths[position]).convert("RGB")
        assert_equal(actual, v2.Compose(steps)(image))
    test = v2.Compose([v2.Resize(18), v2.CenterCrop(16), v2.PILToTensor()])
    for actual, path in zip(next(data.test_batches())[0], files[1].paths, strict=True):
        assert_equal(actual, test(Image.open(path).convert("RGB")))


@pytest.fixture
def short_poll_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loader detect a dead worker within 0.2 s instead of 5 s."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))


def kill_loader_worker() -> None:
    os.kill(next(p.pid for p in multiprocessing.active_children() if p.pid), signal.SIGKILL)


def test_first_killed_worker_is_replaced(large_images: Path, short_poll_interval: None):
    expected = list(build_loader(large_images, 0).train_batches(2, seed=1))
    batches = []
    for step, batch in enumerate(build_loader(large_images, 1).train_batches(2, seed=1)):
        batches.append(batch)
        if step == 1:
            kill_loader_worker()
            time.sleep(0.3)  # torch's own signal handler would raise here
    assert equal_batches(iter(expected), iter(batches))
    with pytest.raises((RuntimeError, OSError, EOFError)):
        for step, _ in enumerate(build_loader(large_images, 1).train_batches(2, seed=1)):
            if step in (1, 7):
                kill_loader_worker()


def test_worker_that_dies_with_the_lock_of_an_event_does_not_stop_the_loader(
    large_images: Path, short_poll_interval: None, monkeypatch: pytest.MonkeyPatch
):
    parent = os.getpid()

    def die_with_the_lock(event: Event) -> bool:
        with event._cond:  # type: ignore[attr-defined]
            if os.getpid() != parent:
                os.kill(os.getpid(), signal.SIGKILL)
            return False

    def too_late(*_: object) -> None:
        raise AssertionError("the loader waits for a lock")

    expected = list(build_loader(large_images, 0).train_batches(2, seed=1))
    monkeypatch.setattr(Event, "is_set", die_with_the_lock)
    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(60)
    try:
        batches = list(build_loader(large_images, 1).train_batches(2, seed=1))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert equal_batches(iter(expected), iter(batches))


@pytest.mark.parametrize("workers", [0, 2])
def test_error_names_the_unreadable_image(large_images: Path, workers: int):
    path = large_images / "train" / "cat" / "004.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError) as raised:
        list(build_loader(large_images, workers).train_batches(5, seed=0))
    assert str(raised.value) == f"{path}: not a readable image (200 bytes). Restore or remove it"


def test_failed_read_of_an_image_is_retried_twice(
    small_images: Path, monkeypatch: pytest.MonkeyPatch
):
    path, attempts = small_images / "train" / "cat" / "004.png", []
    read = Path.read_bytes

    def fail_twice(self: Path) -> bytes:
        attempts.append(self)
        if len(attempts) < 3:
            raise OSError(116, "Stale file handle")
        return read(self)

    def fail(self: Path) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail_twice)
    assert read_image(str(path)).size == (8, 8)
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(DataError, match=r"004\.png: cannot be read \(Input/output error\)"):
        read_image(str(path))


# ---------------------------------------------------------------------- the cache


def cache_names(folder: Path) -> list[str]:
    """Return the names of the caches in a folder, incomplete ones included."""
    return sorted(path.name for path in folder.glob(".precond-*") if path.suffix != ".lock")


def test_cache_is_created_once_and_again_after_a_file_changes(
    small_images: Path, monkeypatch: pytest.MonkeyPatch
):
    data = load(small_images)
    assert len(cache_names(small_images)) == 1 and cache_names(small_images.parent / "data") == []
    reads = []
    monkeypatch.setattr("trainables.data.images._pixels", lambda image: reads.append(image))
    assert equal_batches(data.test_batches(), load(small_images).test_batches()) and not reads
    monkeypatch.undo()
    paint(small_images / "train" / "cat" / "004.png", (8, 8), seed=999)
    changed = load(small_images)
    assert len(cache_names(small_images)) == 2
    assert not equal_batches(data.train_batches(30, 0), changed.train_batches(30, 0))


def test_truncated_cache_is_created_again(small_images: Path):
    expected = list(load(small_images).train_batches(4, seed=0))
    file = small_images / cache_names(small_images)[0] / "train.bin"
    file.write_bytes(file.read_bytes()[:-1])
    assert equal_batches(iter(expected), load(small_images).train_batches(4, seed=0))


def test_images_of_mixed_sizes_use_workers_and_the_cache_records_this(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mixed = make_folder(tmp_path / "mixed", mixed=True)
    assert isinstance(load(mixed), LoaderData)
    (cache,) = cache_names(mixed)
    assert [path.name for path in (mixed / cache).iterdir()] == ["meta.json"]
    monkeypatch.setattr("trainables.data.images._pixels", lambda image: 1 / 0)
    assert isinstance(load(mixed), LoaderData)


FORK = multiprocessing.get_context("fork")


def load_slowly(path: Path, results: Any) -> None:
    """Load a folder slowly; put the number of images read and the sum of a batch into `results`."""
    pixels, reads = images._pixels, []

    def slow(image: Any) -> Tensor:
        reads.append(image)
        time.sleep(0.01)
        return pixels(image)

    images._pixels = slow
    data = load(path)
    results.put((len(reads), next(data.train_batches(30, 0))[0].double().sum().item()))


def test_only_one_of_two_processes_replaces_the_cache_of_a_killed_process(small_images: Path):
    results = FORK.Queue()
    killed, *rest = (
        FORK.Process(target=load_slowly, args=(small_images, results)) for _ in range(3)
    )
    killed.start()
    deadline = time.monotonic() + 30
    while not list(small_images.glob(".precond-*.tmp/train.bin")) and time.monotonic() < deadline:
        time.sleep(0.005)
    killed.kill()
    killed.join()
    (incomplete,) = cache_names(small_images)
    assert incomplete.endswith(".tmp")
    for process in rest:
        process.start()
    counts, totals = zip(*(results.get(timeout=60) for _ in rest), strict=True)
    for process in rest:
        process.join()
    assert sorted(counts) == [0, 39]
    (complete,) = cache_names(small_images)
    assert not complete.endswith(".tmp")
    assert {*totals} == {next(load(small_images).train_batches(30, 0))[0].double().sum().item()}


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder to which this process cannot write (root becomes another user during the test)."""
    root = Path(tempfile.mkdtemp())
    folder = make_folder(root / "images")
    for path in (root, *root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(0)
    else:
        yield folder
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.rmtree(root)


def test_cache_of_a_read_only_folder_is_in_the_data_folder(read_only: Path):
    dataset = source(f"imagefolder:{read_only}")
    with tempfile.TemporaryDirectory() as writable:
        data = dataset.load(Loading(device=CPU, data_dir=Path(writable), settings={}))
        assert isinstance(data, DeviceData)
        assert len(cache_names(Path(writable))) == 1 and cache_names(read_only) == []
    with pytest.raises(DataError, match="cannot be written: choose another folder with --data-dir"):
        dataset.load(Loading(device=CPU, data_dir=read_only.parent, settings={}))


def test_full_disk_leaves_no_cache(small_images: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainables.data.cache.sync", full)
    with pytest.raises(DataError, match="No space left on device: free disk space"):
        load(small_images)
    assert cache_names(small_images) == []


# ---------------------------------------------------------------------- invalid input


def test_unknown_dataset_suggests_similar_names():
    with pytest.raises(
        HyperparameterError, match=r'dataset = "cifar11": unknown\. Did you mean "cifar10"'
    ):
        source("cifar11")
    with pytest.raises(HyperparameterError, match=r"Known: digits, .*imagefolder:PATH"):
        source("imagefolder:")


def test_invalid_image_folders_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def errors(name: str) -> list[str]:
        with pytest.raises(HyperparameterError) as raised:
            image_folder(str(name))
        return str(raised.value).splitlines()

    (line,) = errors(str(tmp_path / "none"))
    assert "none/train: No such file or directory" in line and "--data-dir" not in line
    monkeypatch.setenv("PRECOND_DATA", str(tmp_path))
    (line,) = errors("none")
    assert line.endswith("a relative path is relative to --data-dir")
    differing = make_folder(tmp_path / "differing")
    (differing / "train" / "dog").rename(differing / "train" / "fox")
    lines = errors("differing")
    assert lines == ["imagefolder:differing: class fox is in train, not in test",
                     "imagefolder:differing: class dog is in test, not in train"]  # fmt: skip
    empty = make_folder(tmp_path / "empty")
    for path in (empty / "test" / "cat").iterdir():
        path.unlink()
    (line,) = errors("empty")
    assert "test/cat has no images" in line
    single = make_folder(tmp_path / "single")
    for name in CLASSES[1:]:
        for split in ("train", "test"):
            shutil.rmtree(single / split / name)
    assert "1 class in train: at least 2 class folders are required" in errors("single")[0]
    broken = make_folder(tmp_path / "broken")
    (broken / "train" / "bird" / "000.png").write_bytes(b"")
    assert "000.png: not a readable image (0 bytes)" in errors("broken")[0]


def test_val_replaces_a_missing_test_split(tmp_path: Path, small_images: Path, large_images: Path):
    (small_images / "test").rename(small_images / "val")
    dataset = source(f"imagefolder:{small_images}")
    assert (dataset.classes, dataset.train_examples) == (3, 30)
    assert (dataset.channels, dataset.size) == (3, 8)
    assert (
        load(small_images).evaluation_examples == 9
        and source(f"imagefolder:{large_images}").size == 224
    )


def test_verify_lists_every_unreadable_image(small_images: Path):
    dataset = source(f"imagefolder:{small_images}")
    assert (
        dataset.problems(small_images.parent)
        == dataset.problems(small_images.parent, verify=True)
        == []
    )
    for name in ("000", "007"):
        (small_images / "train" / "dog" / f"{name}.png").write_bytes(b"no image")
    lines = dataset.problems(small_images.parent, verify=True)
    assert len(lines) == 2 and "dog/000.png" in lines[0] and "dog/007.png" in lines[1]


# ---------------------------------------------------------------------- on a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_on_a_gpu_equal_those_on_the_cpu_and_do_not_synchronise(
    path_and_settings: tuple[Path, dict],
):
    path, settings = path_and_settings
    data_dir, cuda = path.parent / "data", torch.device("cuda")
    on_gpu = source(f"imagefolder:{path}").load(Loading(cuda, data_dir, settings))
    on_cpu = load(path, settings)
    iterator = on_gpu.train_batches(5, seed=1)
    batches = [next(iterator)]
    if isinstance(on_gpu, DeviceData):
        torch.cuda.set_sync_debug_mode("error")
    try:
        batches += iterator
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = on_cpu.train_batches(5, seed=1)
    for (inputs, labels), (cpu_inputs, cpu_labels) in zip(batches, expected, strict=True):
        torch.testing.assert_close(inputs.cpu(), cpu_inputs, atol=1e-5, rtol=1e-5)
        assert labels.cpu().equal(cpu_labels)
