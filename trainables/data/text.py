"""Text for the prediction of the next character: Python's documentation, or a user's file.

The text is divided into windows that do not overlap. The last tenth of the text is the test set. If
a part of the training set is held out, it is the end of the training text, because neighbouring
windows are related.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Generator, Tensor

from precond import HyperparameterError
from precond.counts import counted
from trainables.data.base import Loading, Source
from trainables.data.paths import Stamp, unreadable_path, user_file
from trainables.data.tensors import TensorData
from trainables.tasks import NEXT_TOKEN, Task

CONTEXT = 64  # characters from which the next one is predicted
MIN_CHARACTERS = 1000


@dataclass(frozen=True, kw_only=True)
class Text(Source):
    """A text with a token for each character of the training text, and one for all others.

    Attributes:
        text: The whole text.
        content: SHA-256 of the text.
        vocabulary: The characters of the training text in ascending order; token i is character i.
    """

    name: str
    text: str
    content: str | None
    vocabulary: Sequence[str]
    classes: int
    train_examples: int
    test_examples: int
    size: int = CONTEXT
    channels: int = 1
    augmented: bool = False
    task: Task = NEXT_TOKEN

    def problems(self, data_dir: Path, verify: bool = False) -> list[str]:
        """Return an empty list, because the text has been read and checked."""
        return []

    def load(self, loading: Loading) -> TensorData:
        """Load windows of 64 characters and, as targets, the next character at each position."""
        parts = (self._windows(part) for part in split(self.text))
        tensors = [half for part in parts for half in (part[:, :-1], part[:, 1:])]
        return TensorData.load(tensors, loading, ordered=True)

    def random_batch(self, examples: int, size: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return random tokens and next tokens, `[examples, size]` int64."""
        tokens = torch.randint(self.classes, (examples, size + 1), generator=generator)
        return tokens[:, :-1], tokens[:, 1:]

    def _windows(self, text: str) -> Tensor:
        """Return the tokens of windows that do not overlap, `[n, 65]` int64."""
        tokens = {character: token for token, character in enumerate(self.vocabulary)}
        unknown = len(tokens)
        numbers = torch.tensor([tokens.get(character, unknown) for character in text])
        return numbers[: _count(text) * (CONTEXT + 1)].view(-1, CONTEXT + 1)


def split(text: str) -> tuple[str, str]:
    """Return the training text and the test text, which is the last tenth."""
    end = len(text) - len(text) // 10
    return text[:end], text[end:]


def _count(text: str) -> int:
    """Return the number of windows of a text."""
    return len(text) // (CONTEXT + 1)


def _source(name: str, text: str, content: str) -> Text:
    train, test = split(text)
    vocabulary = sorted(set(train))
    return Text(
        name=name,
        text=text,
        content=content,
        vocabulary=vocabulary,
        classes=len(vocabulary) + 1,
        train_examples=_count(train),
        test_examples=_count(test),
    )


@cache
def documentation() -> Text:
    """Return the dataset `text`: the documentation topics of Python's `help`.

    Many topics repeat sections of other topics. Each paragraph is used once, so that the test set
    contains no paragraph of the training set. The text depends on the version of Python; version
    3.11 has about 373,000 characters.

    Raises:
        HyperparameterError: This installation of Python has no documentation topics.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        advice = "install Python's complete standard library, or use text:PATH"
        raise HyperparameterError(f"text: the module pydoc_data is missing: {advice}") from error
    paragraphs = "\n\n".join(topics[name] for name in sorted(topics)).split("\n\n")
    text = "\n\n".join(dict.fromkeys(part for part in paragraphs if part.strip()))
    return _source("text", text, hashlib.sha256(text.encode()).hexdigest())


def text_file(path: str) -> Text:
    """Return the dataset `text:PATH`, a text file in UTF-8.

    Raises:
        HyperparameterError: The file is missing, a folder, not UTF-8 or too short.
    """
    name = f"text:{path}"
    return _read(name, path, user_file(name, path))


@cache
def _read(name: str, path: str, stamp: Stamp) -> Text:
    file = stamp[0]
    try:
        content = file.read_bytes()
        text = content.decode()
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is not UTF-8: convert the file to UTF-8"
        raise HyperparameterError(f"{name}: {file}: {reason}") from error
    except OSError as error:
        raise unreadable_path(name, path, error) from error
    if len(text.strip()) < MIN_CHARACTERS:
        count = f"{counted(len(text.strip()), 'character')} without surrounding white space"
        raise HyperparameterError(f"{name}: {file}: {count}: must be at least {MIN_CHARACTERS}")
    return _source(name, text, hashlib.sha256(content).hexdigest())
