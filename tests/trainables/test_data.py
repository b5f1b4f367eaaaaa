"""Datasets: augmentation against a loop over images, epochs decided by their seed, caches that survive what happens."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from images import CLASSES, make_folder, paint
from PIL import Image
from torch import Tensor
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from torchvision.transforms.v2 import functional as peer

from precond import HyperparameterError
from trainables.data import DataError, Loading, augment, images, source
from trainables.data.base import Data, held_out, share
from trainables.data.cache import channel_statistics
from trainables.data.device import DeviceData
from trainables.data.digits import Digits, _tensors
from trainables.data.folder import image_folder
from trainables.data.images import read_image
from trainables.data.loader import LoaderData
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
def small(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "small")


@pytest.fixture
def large(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "large", side=70, mixed=True)


def loading(path: Path, settings: Mapping[str, Any] = {}, **others: Any) -> Loading:
    return Loading(device=CPU, data_dir=path.parent / "data", settings=settings, **others)


def load(path: Path, settings: Mapping[str, Any] = {}, **others: Any) -> Data:
    return source(f"imagefolder:{path}").load(loading(path, settings, **others))


def same(first: Iterator, second: Iterator) -> bool:
    pairs = list(zip(first, second, strict=True))
    return bool(pairs) and all(a.equal(c) and b.equal(d) for (a, b), (c, d) in pairs)


# ---------------------------------------------------------------------- augmentation


def test_crop_and_flip_are_those_of_a_loop_over_images():
    images = torch.randint(256, (40, 3, 9, 9), dtype=torch.uint8)
    offsets, chosen = torch.randint(7, (40, 2)), torch.rand(40) < 0.5
    got = augment.flip(augment.crop(images, offsets, 3), chosen)
    for image, (top, left), mirrored, mine in zip(
        images, offsets.tolist(), chosen, got, strict=True
    ):
        padded = torch.zeros(3, 15, 15, dtype=torch.uint8)
        padded[:, 3:12, 3:12] = image
        window = padded[:, top : top + 9, left : left + 9]
        assert mine.equal(window.flip(-1) if mirrored else window)
        theirs = peer.crop(peer.pad(image, [3]), top, left, 9, 9)
        assert mine.equal(peer.horizontal_flip(theirs) if mirrored else theirs)


def test_an_epoch_is_its_draws_applied_image_by_image(small: Path):
    data = load(small, AUGMENTED)
    assert isinstance(data, DeviceData)
    drawn = data._draw(torch.Generator().manual_seed(5))
    files = image_folder(str(small))._splits()[0]
    raw = [peer.pil_to_tensor(read_image(path)) for path in files.paths]
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in channel_statistics(torch.stack(raw)))
    seen = 0
    for inputs, labels in data.train_batches(4, seed=5):
        for image, label in zip(inputs, labels, strict=True):
            position, (top, left) = int(drawn["order"][seen]), drawn["offsets"][seen].tolist()
            expected = peer.crop(peer.pad(raw[position], [2]), top, left, 8, 8)
            if drawn["flipped"][seen]:
                expected = peer.horizontal_flip(expected)
            expected = (expected / 255 - mean) / deviation
            t, left, b, right = drawn["boxes"][seen].tolist()
            expected[:, t:b, left:right] = 0
            torch.testing.assert_close(image, expected, atol=1e-5, rtol=1e-5)
            assert label == files.labels[position]
            seen += 1
    assert seen == 28 and drawn["offsets"].unique().tolist() == [0, 1, 2, 3, 4]
    assert 0 < drawn["flipped"].sum() < 30 and len(drawn["order"].unique()) == 30


def test_the_training_set_is_normalised_by_its_channels(small: Path):
    inputs = torch.cat([x for x, _ in load(small).train_batches(30, seed=0)]).double()
    torch.testing.assert_close(inputs.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        inputs.std((0, 2, 3), correction=0), torch.ones(3).double(), atol=1e-6, rtol=0
    )


def test_channel_statistics():
    images = torch.randint(256, (2000, 3, 5, 5), dtype=torch.uint8)
    images[:, 2] = 7
    mean, deviation = channel_statistics(images)
    pixels = images.double() / 255
    torch.testing.assert_close(torch.tensor(mean).double(), pixels.mean((0, 2, 3)))
    torch.testing.assert_close(
        torch.tensor(deviation).double(), pixels.std((0, 2, 3), correction=0)
    )


def test_a_channel_of_one_colour_stays_finite(tmp_path: Path):
    for path in make_folder(tmp_path / "grey").rglob("*.png"):
        Image.new("RGB", (8, 8), (9, 9, 9)).save(path)
    inputs, _ = next(load(tmp_path / "grey").train_batches(4, seed=0))
    assert inputs.abs().max() < 1e-5


@pytest.mark.parametrize("size", [5, 8, 20])
def test_resizing_is_torchvisions(small: Path, size: int):
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(
        augment.resize(images, size), peer.resize(images, [size, size], antialias=True)
    )
    data = load(small, {"resolution": size, "test_resolution": 6, "random_erasing": 1.0})
    assert next(data.train_batches(4, seed=0))[0].shape == (4, 3, size, size)
    assert next(data.test_batches())[0].shape == (9, 3, 6, 6)


def test_erased_boxes_fit_and_are_drawn_as_torchvision_does():
    boxes = augment.draw_boxes(4000, 32, 0.25, torch.Generator().manual_seed(0))
    height, width = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    erased = height * width > 0
    assert boxes.min() >= 0 and boxes.max() <= 32 and abs(erased.float().mean() - 0.25) < 0.03
    ratios, areas = [], []
    torch.manual_seed(0)
    image = torch.ones(1, 32, 32)
    from torchvision.transforms.v2 import RandomErasing

    eraser = RandomErasing(p=1.0)
    for _ in range(1000):
        params = eraser.make_params([image])
        ratios.append(params["h"] / params["w"])
        areas.append(params["h"] * params["w"])
    mine = (height * width)[erased].double()
    assert (
        abs(mine.mean() - sum(areas) / 1000) < 10
        and abs(mine.std() - torch.tensor(areas).double().std()) < 8
    )
    mine = (height / width)[erased].log()
    assert abs(mine.mean() - torch.tensor(ratios).log().mean()) < 0.1
    assert abs(mine.std() - torch.tensor(ratios).log().std()) < 0.06


def test_strengths_of_randaugment_are_spread_and_cut(monkeypatch: pytest.MonkeyPatch):
    transform, used = NoisyRandAugment(9, 0.5), []
    for strength, fixed in enumerate(transform._at):
        assert (
            fixed.magnitude == strength and fixed.num_magnitude_bins == 101 and fixed.num_ops == 2
        )
        monkeypatch.setattr(
            fixed, "forward", lambda image, strength=strength: used.append(strength / 10)
        )
    torch.manual_seed(0)
    for _ in range(500):
        transform(None)
    used = torch.tensor(used)
    assert abs(used.mean() - 9) < 0.1 and abs(used.std() - 0.5) < 0.1 and used.max() <= 10


# ---------------------------------------------------------------------- seeds, shares, parts


LOADERS = {
    "device": ("small", AUGMENTED),
    "workers": ("large", WORKERS),
    "workers on bytes": ("small", WORKERS),
}


@pytest.fixture(params=LOADERS)
def path_and_settings(request: pytest.FixtureRequest) -> tuple[Path, dict]:
    name, settings = LOADERS[request.param]
    return request.getfixturevalue(name), settings


def test_an_epoch_is_decided_by_its_seed_alone(path_and_settings: tuple[Path, dict]):
    path, settings = path_and_settings
    first, second = load(path, settings), load(path, settings)
    for _ in first.train_batches(7, seed=1):  # an epoch before, and other random numbers in between
        torch.rand(3)
    assert same(first.train_batches(7, seed=2), second.train_batches(7, seed=2))
    assert not same(first.train_batches(7, seed=2), second.train_batches(7, seed=3))
    assert same(first.test_batches(4), second.test_batches(4))
    state = torch.get_rng_state()
    list(first.train_batches(7, seed=2))
    assert torch.get_rng_state().equal(state)


def test_shares_of_a_batch_are_one_processs_batch(path_and_settings: tuple[Path, dict]):
    path, settings = path_and_settings
    whole = load(path, settings)
    ranks = [load(path, settings, rank=rank, ranks=3) for rank in range(3)]
    batches = [list(data.train_batches(7, seed=4)) for data in ranks]
    assert [len(b[0][1]) for b in batches] == [2, 2, 3]
    together = (
        tuple(torch.cat(parts) for parts in zip(*step, strict=True))
        for step in zip(*batches, strict=True)
    )
    assert same(whole.train_batches(7, seed=4), together)
    assert all(same(whole.test_batches(), data.test_batches()) for data in ranks)


def test_a_part_is_held_out_in_place_of_the_test_set(path_and_settings: tuple[Path, dict]):
    path, settings = path_and_settings
    data = load(path, settings, train_fraction=0.7)
    assert (data.train_examples, data.evaluation_examples, data.steps_per_epoch(4)) == (21, 9, 5)
    labels = torch.cat([labels for _, labels in data.test_batches(4)])
    assert torch.bincount(labels).tolist() == [3, 3, 3]
    kept, out = held_out(torch.tensor(image_folder(str(path))._splits()[0].labels), 0.7)
    assert not set(kept.tolist()) & set(out.tolist()) and len(kept) + len(out) == 30
    plain = load(
        path, {"resolution": 12, "test_resolution": 12}
    )  # the whole training set, nothing random
    everything = {
        tuple(x.flatten()[:50].tolist()) for b, _ in plain.train_batches(30, seed=0) for x in b
    }
    part = load(path, {"resolution": 12, "test_resolution": 12}, train_fraction=0.7)
    trained = {
        tuple(x.flatten()[:50].tolist()) for b, _ in part.train_batches(21, seed=0) for x in b
    }
    tested = {tuple(x.flatten()[:50].tolist()) for b, _ in part.test_batches() for x in b}
    assert not trained & tested and trained | tested == everything


def test_digits_share_and_hold_out():
    whole = Digits().load(loading(Path("x")))
    ranks = [Digits().load(loading(Path("x"), rank=rank, ranks=2)) for rank in range(2)]
    batches = zip(*(data.train_batches(33, seed=1) for data in ranks), strict=True)
    assert same(
        whole.train_batches(33, seed=1),
        (tuple(map(torch.cat, zip(*step, strict=True))) for step in batches),
    )
    part = Digits().load(loading(Path("x"), train_fraction=0.9))
    assert part.train_examples + part.evaluation_examples == Digits().train_examples == 1197
    assert abs(part.evaluation_examples - 119.7) < 5 and part.test_inputs.shape[1:] == (1, 8, 8)


def test_digits_are_those_of_scikit_learn_bit_for_bit():
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


def test_digits_without_scikit_learn_are_a_problem(monkeypatch: pytest.MonkeyPatch):
    assert Digits().problems(Path("x")) == []
    monkeypatch.setattr("trainables.data.digits.find_spec", lambda name: None)
    _tensors.cache_clear()
    [line] = Digits().problems(Path("x"))
    assert "pip install scikit-learn" in line
    with pytest.raises(DataError, match="scikit-learn"):
        Digits().load(loading(Path("x")))


def test_shares_cover_a_batch():
    for ranks in (1, 2, 3, 5):
        parts = [share(3, 11, rank, ranks) for rank in range(ranks)]
        assert [at for part in parts for at in range(part.start, part.stop)] == list(range(33, 44))


@pytest.mark.parametrize("settings", [{}, {"trivial_augment": True}])
def test_repeated_augmentation_shows_an_image_again_at_once(small: Path, settings: dict):
    data = load(small, {**settings, "repeated_augmentation": 3, "flip": True, "crop_padding": 2})
    assert isinstance(data, LoaderData if settings else DeviceData)
    batches = list(data.train_batches(6, seed=0))
    assert len(batches) == 5
    for inputs, labels in batches:
        assert labels.view(2, 3).eq(labels.view(2, 3)[:, :1]).all()
        assert not inputs[0].equal(inputs[1]) or not inputs[0].equal(inputs[2])


# ---------------------------------------------------------------------- worker processes


def loader(path: Path, workers: int, settings: Mapping[str, Any] = WORKERS) -> LoaderData:
    data = load(path, settings)
    assert isinstance(data, LoaderData)
    data._workers = workers
    return data


def test_the_number_of_workers_changes_nothing(large: Path):
    reference = list(loader(large, 0).train_batches(7, seed=3))
    for workers in (1, 2):
        assert same(iter(reference), loader(large, workers).train_batches(7, seed=3))


def test_large_images_are_torchvisions_transforms(large: Path):
    from torchvision.transforms import v2

    settings = {
        "random_resized_crop": True,
        "flip": True,
        "trivial_augment": True,
        "resolution": 16,
    }
    data = loader(large, 0, settings)
    steps = [
        v2.RandomResizedCrop(16),
        v2.RandomHorizontalFlip(),
        v2.TrivialAugmentWide(),
        v2.PILToTensor(),
    ]
    files = image_folder(str(large))._splits()
    generator = torch.Generator().manual_seed(9)
    order = torch.randperm(30, generator=generator)
    seeds = torch.randint(2**62, (30,), generator=generator)
    mean, deviation = (
        torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    inputs = torch.cat([x for x, _ in data.train_batches(10, seed=9)])
    for mine, position, seed in zip(inputs, order.tolist(), seeds.tolist(), strict=True):
        torch.manual_seed(seed)
        theirs = v2.Compose(steps)(Image.open(files[0].paths[position]).convert("RGB"))
        torch.testing.assert_close(mine, (theirs / 255 - mean) / deviation, atol=1e-5, rtol=1e-5)
    test = v2.Compose([v2.Resize(18), v2.CenterCrop(16), v2.PILToTensor()])
    for mine, path in zip(next(data.test_batches())[0], files[1].paths, strict=True):
        theirs = test(Image.open(path).convert("RGB"))
        torch.testing.assert_close(mine, (theirs / 255 - mean) / deviation, atol=1e-5, rtol=1e-5)


@pytest.fixture
def asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead worker is noticed within 0.2 s, not 5 s."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))


def kill_a_worker() -> None:
    os.kill(next(p.pid for p in multiprocessing.active_children() if p.pid), signal.SIGKILL)


def test_a_killed_worker_is_forgiven_once(large: Path, asked_often: None):
    expected = list(loader(large, 0).train_batches(2, seed=1))
    got = []
    for step, batch in enumerate(loader(large, 1).train_batches(2, seed=1)):
        got.append(batch)
        if step == 1:
            kill_a_worker()
            time.sleep(0.3)  # where torch's own handler would raise: here it must not
    assert same(iter(expected), iter(got))
    with pytest.raises((RuntimeError, OSError, EOFError)):
        for step, _ in enumerate(loader(large, 1).train_batches(2, seed=1)):
            if step in (1, 7):
                kill_a_worker()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named(large: Path, workers: int):
    path = large / "train" / "cat" / "004.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError) as raised:
        list(loader(large, workers).train_batches(5, seed=0))
    assert str(raised.value) == f"{path}: not a readable image (200 bytes). Restore or remove it"


def test_a_file_is_read_three_times(small: Path, monkeypatch: pytest.MonkeyPatch):
    path, tries = small / "train" / "cat" / "004.png", []
    read = Path.read_bytes

    def stale(self: Path) -> bytes:
        tries.append(self)
        if len(tries) < 3:
            raise OSError(116, "Stale file handle")
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", stale)
    assert read_image(str(path)).size == (8, 8)
    tries[:] = []
    monkeypatch.setattr(
        Path, "read_bytes", lambda self: (_ for _ in ()).throw(OSError(5, "Input/output error"))
    )
    with pytest.raises(DataError, match=r"004\.png: cannot be read \(Input/output error\)"):
        read_image(str(path))


# ---------------------------------------------------------------------- the cache


def cache_of(place: Path) -> list[str]:
    return sorted(path.name for path in place.glob(".precond-*") if path.suffix != ".lock")


def test_the_cache_is_made_once_and_follows_the_files(small: Path, monkeypatch: pytest.MonkeyPatch):
    data = load(small)
    made = cache_of(small)
    assert len(made) == 1 and cache_of(small.parent / "data") == []
    reads = []
    monkeypatch.setattr("trainables.data.images._pixels", lambda image: reads.append(image))
    assert same(data.test_batches(), load(small).test_batches()) and not reads
    monkeypatch.undo()
    paint(small / "train" / "cat" / "004.png", (8, 8), seed=999)
    again = load(small)
    assert len(cache_of(small)) == 2 and not same(
        data.train_batches(30, 0), again.train_batches(30, 0)
    )


def test_a_short_cache_is_made_again(small: Path):
    expected = list(load(small).train_batches(4, seed=0))
    file = small / cache_of(small)[0] / "train.bin"
    file.write_bytes(file.read_bytes()[:-1])
    assert same(iter(expected), load(small).train_batches(4, seed=0))


def test_images_of_mixed_sizes_go_to_workers_and_that_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mixed = make_folder(tmp_path / "mixed", mixed=True)
    assert isinstance(load(mixed), LoaderData)
    (cache,) = cache_of(mixed)
    assert [path.name for path in (mixed / cache).iterdir()] == ["meta.json"]
    monkeypatch.setattr("trainables.data.images._pixels", lambda image: 1 / 0)
    assert isinstance(load(mixed), LoaderData)


FORK = multiprocessing.get_context("fork")


def build(path: Path, results: Any) -> None:
    """Load the folder slowly; reports how many images were read for the cache, and a sum over it."""
    pixels, seen = images._pixels, []

    def slow(image: Any) -> Tensor:
        seen.append(image)
        time.sleep(0.01)
        return pixels(image)

    images._pixels = slow
    data = load(path)
    results.put((len(seen), next(data.train_batches(30, 0))[0].double().sum().item()))


def test_a_process_killed_while_making_the_cache_leaves_none_and_of_two_one_makes_it(small: Path):
    results = FORK.Queue()
    killed, *rest = (FORK.Process(target=build, args=(small, results)) for _ in range(3))
    killed.start()
    deadline = time.monotonic() + 30
    while not list(small.glob(".precond-*.tmp/train.bin")) and time.monotonic() < deadline:
        time.sleep(0.005)
    killed.kill()
    killed.join()
    (begun,) = cache_of(small)  # begun, not finished
    assert begun.endswith(".tmp")
    for process in rest:
        process.start()
    counts, totals = zip(*(results.get(timeout=60) for _ in rest), strict=True)
    for process in rest:
        process.join()
    assert sorted(counts) == [0, 39]
    (made,) = cache_of(small)
    assert not made.endswith(".tmp")
    assert {*totals} == {next(load(small).train_batches(30, 0))[0].double().sum().item()}


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder that belongs to somebody else than this process."""
    root = Path(tempfile.mkdtemp())
    theirs = make_folder(root / "theirs")
    for path in (root, *root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield theirs
        finally:
            os.seteuid(0)
    else:
        yield theirs
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.rmtree(root)


def test_beside_a_read_only_folder_the_cache_is_in_the_data_folder(nobody: Path):
    with tempfile.TemporaryDirectory() as writable:
        where = Loading(device=CPU, data_dir=Path(writable), settings={})
        data = source(f"imagefolder:{nobody}").load(where)
        assert (
            isinstance(data, DeviceData)
            and len(cache_of(Path(writable))) == 1
            and cache_of(nobody) == []
        )
    with pytest.raises(DataError, match="cannot be written: name another folder with --data-dir"):
        source(f"imagefolder:{nobody}").load(
            Loading(device=CPU, data_dir=nobody.parent, settings={})
        )


def test_a_full_disk_leaves_no_cache(small: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainables.data.cache.sync", full)
    with pytest.raises(DataError, match="No space left on device: make room"):
        load(small)
    assert cache_of(small) == []


# ---------------------------------------------------------------------- bad input


def test_an_unknown_dataset_is_met_with_the_nearest():
    with pytest.raises(
        HyperparameterError, match=r'dataset = "cifar11": unknown\. Did you mean "cifar10"'
    ):
        source("cifar11")
    with pytest.raises(HyperparameterError, match=r"Known: digits, .*imagefolder:PATH"):
        source("imagefolder:")


def test_folders_that_are_not_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(name: str) -> list[str]:
        with pytest.raises(HyperparameterError) as raised:
            image_folder(str(name))
        return str(raised.value).splitlines()

    (line,) = refused(str(tmp_path / "none"))
    assert "none/train: No such file or directory" in line and "--data-dir" not in line
    monkeypatch.setenv("PRECOND_DATA", str(tmp_path))
    (line,) = refused("none")
    assert line.endswith("a relative path is one below --data-dir")
    differing = make_folder(tmp_path / "differing")
    (differing / "train" / "dog").rename(differing / "train" / "fox")
    lines = refused("differing")
    assert lines == ["imagefolder:differing: class fox is in train, not in test",
                     "imagefolder:differing: class dog is in test, not in train"]  # fmt: skip
    empty = make_folder(tmp_path / "empty")
    for path in (empty / "test" / "cat").iterdir():
        path.unlink()
    (line,) = refused("empty")
    assert "test/cat has no images" in line
    single = make_folder(tmp_path / "single")
    for name in CLASSES[1:]:
        for split in ("train", "test"):
            shutil.rmtree(single / split / name)
    assert "1 classes in train: at least 2" in refused("single")[0]
    broken = make_folder(tmp_path / "broken")
    (broken / "train" / "bird" / "000.png").write_bytes(b"")
    assert "000.png: not a readable image (0 bytes)" in refused("broken")[0]


def test_val_stands_in_for_test_and_sizes_are_seen(tmp_path: Path, small: Path, large: Path):
    (small / "test").rename(small / "val")
    found = source(f"imagefolder:{small}")
    assert (found.classes, found.train_examples, found.channels, found.size) == (3, 30, 3, 8)
    assert load(small).evaluation_examples == 9 and source(f"imagefolder:{large}").size == 224


def test_verification_names_every_unreadable_image(small: Path):
    found = source(f"imagefolder:{small}")
    assert found.problems(small.parent) == found.problems(small.parent, verify=True) == []
    for name in ("000", "007"):
        (small / "train" / "dog" / f"{name}.png").write_bytes(b"no image")
    lines = found.problems(small.parent, verify=True)
    assert len(lines) == 2 and "dog/000.png" in lines[0] and "dog/007.png" in lines[1]


# ---------------------------------------------------------------------- on a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_on_a_gpu_are_the_cpus_and_no_step_waits(path_and_settings: tuple[Path, dict]):
    path, settings = path_and_settings
    where = Loading(device=torch.device("cuda"), data_dir=path.parent / "data", settings=settings)
    there, here = source(f"imagefolder:{path}").load(where), load(path, settings)
    batches = there.train_batches(5, seed=1)
    seen = [next(batches)]
    if isinstance(there, DeviceData):
        torch.cuda.set_sync_debug_mode("error")
    try:
        seen += batches
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for (inputs, labels), (expected, targets) in zip(
        seen, here.train_batches(5, seed=1), strict=True
    ):
        torch.testing.assert_close(inputs.cpu(), expected, atol=1e-5, rtol=1e-5)
        assert labels.cpu().equal(targets)
