"""Arrays in a user's file, which `numpy.savez` has written: `array:FILE.npz`."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from precond import HyperparameterError
from precond.counts import counted
from trainables.data.base import Loading, Source
from trainables.data.paths import Stamp, unreadable_path, user_file
from trainables.data.tensors import TensorData
from trainables.files import checksum
from trainables.tasks import CLASSIFICATION, REGRESSION, Task

NAMES = ("x_train", "y_train", "x_test", "y_test")
MIN_SIDE = 8  # pixels; some models halve the side of an image three times


@dataclass(frozen=True, kw_only=True)
class ArrayFile(Source):
    """The arrays of a file; they are used as they are, without standardisation.

    Attributes:
        tensors: Training inputs, training targets, test inputs and test targets.
        content: SHA-256 of the file.
    """

    name: str
    tensors: tuple[Tensor, ...]
    content: str | None
    classes: int
    train_examples: int
    test_examples: int
    size: int
    channels: int
    task: Task
    augmented: bool = False

    def problems(self, data_dir: Path, verify: bool = False) -> list[str]:
        """Return an empty list, because the arrays have been read and checked."""
        return []

    def load(self, loading: Loading) -> TensorData:
        """Load the arrays onto the device."""
        return TensorData.load([tensor.clone() for tensor in self.tensors], loading)


def array_file(path: str) -> ArrayFile:
    """Return the dataset `array:PATH`.

    The file contains the arrays x_train, y_train, x_test and y_test. Inputs are floating-point:
    images `[n, channels, side, side]` or vectors `[n, length]`. Targets are labels `[n]` of type
    int64 for a classification, or floating-point numbers `[n]` or `[n, outputs]` for a regression.

    Raises:
        HyperparameterError: The file is missing, cannot be read or contains pickled objects, which
            are never loaded; or an array is missing or unsuitable. There is one line for each
            problem.
    """
    name = f"array:{path}"
    return _read(name, path, user_file(name, path))


@cache
def _read(name: str, path: str, stamp: Stamp) -> ArrayFile:
    try:
        arrays, errors = _arrays(stamp[0])
        content = checksum(stamp[0])
    except OSError as error:
        raise unreadable_path(name, path, error) from error
    if not errors:
        arrays, errors = _converted(arrays)
    errors = errors or _shape_problems(arrays)
    if errors:
        raise HyperparameterError("\n".join(f"{name}: {line}" for line in errors))
    x, y, test_x, test_y = (torch.from_numpy(arrays[key]) for key in NAMES)
    is_labels = y.dtype == torch.int64
    if not is_labels:
        y, test_y = y.view(len(y), -1), test_y.view(len(test_y), -1)
    size = x.shape[2] if x.dim() == 4 else 1
    return ArrayFile(
        name=name,
        tensors=(x, y, test_x, test_y),
        content=content,
        classes=int(y.max()) + 1 if is_labels else y.shape[1],
        train_examples=len(y),
        test_examples=len(test_y),
        size=size,
        channels=x.shape[1],
        task=CLASSIFICATION if is_labels else REGRESSION,
    )


def _arrays(file: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the arrays of a file by name, and one line for each that cannot be read.

    Raises:
        OSError: The file cannot be read.
    """
    import numpy

    if not zipfile.is_zipfile(file):
        return {}, [f"{file} is not an archive of arrays: write the file with numpy.savez"]
    arrays, errors = {}, []
    with numpy.load(file, allow_pickle=False) as archive:
        for key in NAMES:
            if key not in archive.files:
                errors.append(f"{key} is missing: the file must contain {', '.join(NAMES)}")
                continue
            try:
                arrays[key] = archive[key]
                if not isinstance(arrays[key], numpy.ndarray):
                    raise ValueError("no array")
            except (ValueError, EOFError, zipfile.BadZipFile) as error:
                pickled = "pickled objects, which are never loaded: save an array of numbers"
                damaged = f"damaged ({str(error).partition(chr(10))[0]}): write the file again"
                errors.append(f"{key} is {damaged}")
                if "pickle" in str(error):
                    errors[-1] = f"{key} contains {pickled}"
    return arrays, errors


def _converted(arrays: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the arrays as float32 or int64, and one line for each unsuitable type or value."""
    import numpy

    converted, errors = {}, []
    for key, array in arrays.items():
        is_labels = array.dtype.kind == "i" and array.dtype.itemsize == 8 and key[0] == "y"
        if array.dtype.kind != "f" and not is_labels:
            rule = "int64 labels or floating-point" if key[0] == "y" else "floating-point"
            errors.append(f"{key} is {array.dtype}: must be {rule}")
            continue
        with numpy.errstate(over="ignore"):
            values = numpy.ascontiguousarray(array, "int64" if is_labels else "float32")
        converted[key] = values
        if not is_labels and (count := int((~numpy.isfinite(values)).sum())):
            errors.append(f"{key} has {counted(count, 'NaN or infinite value')} in float32")
    return converted, errors


def _shape_problems(arrays: Mapping[str, Any]) -> list[str]:
    """Return one line for each unsuitable shape or label."""
    errors = []
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        shape = list(x.shape)
        if x.ndim not in (2, 4) or not x.size:
            rule = "[n, length], or [n, channels, side, side]"
            errors.append(f"x_{part} has shape {shape}: must be {rule}, and not empty")
        elif x.ndim == 4 and (shape[2] != shape[3] or shape[2] < MIN_SIDE):
            rule = f"squares of at least {MIN_SIDE} pixels, or vectors [n, length]"
            errors.append(f"x_{part} has images of {shape[2]} x {shape[3]} pixels: must be {rule}")
        if y.ndim not in ((1,) if y.dtype.kind == "i" else (1, 2)) or not y.size:
            rule = "int64 [n], or floating-point [n] or [n, outputs]"
            errors.append(f"y_{part} has shape {list(y.shape)}: must be {rule}, and not empty")
        elif x.size and len(x) != len(y):
            errors.append(f"x_{part} has {counted(len(x), 'example')}, but y_{part} has {len(y)}")
    return errors or _difference_problems(arrays)


def _difference_problems(arrays: Mapping[str, Any]) -> list[str]:
    """Return one line for each difference between the splits, and for each invalid label."""
    errors = []
    for key in ("x", "y"):
        train, test = arrays[f"{key}_train"], arrays[f"{key}_test"]
        first, second = _kind(train), _kind(test)
        if first != second:
            errors.append(f"{key}_train is {first}, but {key}_test is {second}: must be equal")
    train, test = arrays["y_train"], arrays["y_test"]
    if errors or train.dtype.kind != "i":
        return errors
    high = int(train.max())
    if int(train.min()) < 0 or high < 1:
        labels = f"{int(train.min())} to {high}"
        rule = "must be 0 to the number of classes - 1, with at least 2 classes"
        return [f"y_train has labels {labels}: {rule}"]
    if int(test.min()) < 0 or int(test.max()) > high:
        labels = f"{int(test.min())} to {int(test.max())}"
        errors.append(f"y_test has labels {labels}: must be in 0..{high}, as in y_train")
    return errors


def _kind(array: Any) -> str:
    """Return the type and the shape of an array without the number of examples."""
    return f"{array.dtype} [{', '.join(['n', *map(str, array.shape[1:])])}]"
