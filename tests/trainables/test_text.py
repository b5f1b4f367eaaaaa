"""Text: windows, vocabulary, held-out part, model, a short training, the key, and refusals."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from precond import HyperparameterError
from trainables.data import DataError, Loading, TensorData, source
from trainables.data.text import CONTEXT, Text, split
from trainables.models.language import gpt
from trainables.train import Trainer
from trainables.workloads import deviations, resolve, workload

CPU = torch.device("cpu")


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text("".join(f"chapter {number}: the ox runs\n" for number in range(400)))
    return path


def text(name: str = "text") -> Text:
    dataset = source(name)
    assert isinstance(dataset, Text)
    return dataset


def load(dataset: Text, **fields: float) -> TensorData:
    data = dataset.load(Loading(CPU, Path("x"), {}, **fields))
    assert isinstance(data, TensorData)
    return data


def decoded(dataset: Text, windows: Tensor) -> list[str]:
    """Return the characters of windows; the unknown character becomes `?`."""
    characters = [*dataset.vocabulary, "?"]
    return ["".join(characters[token] for token in window) for window in windows.tolist()]


# ---------------------------------------------------------------------- windows


def test_windows_are_consecutive_pieces_of_both_parts_of_the_text():
    dataset = text()
    data = load(dataset)
    for whole, inputs, targets in zip(
        split(dataset.text),
        (data.train_inputs, data.test_inputs),
        (data.train_targets, data.test_targets),
        strict=True,
    ):
        assert inputs.shape == targets.shape == (len(whole) // 65, CONTEXT)
        pieces = [whole[start : start + 65] for start in range(0, len(whole) - 64, 65)]
        known = ["".join(c if c in dataset.vocabulary else "?" for c in piece) for piece in pieces]
        assert decoded(dataset, inputs) == [piece[:-1] for piece in known]
        assert decoded(dataset, targets) == [piece[1:] for piece in known]
    assert dataset.train_examples == data.train_examples
    assert dataset.test_examples == data.evaluation_examples
    assert dataset.task.problems(data.train_targets) == ""


def test_the_test_set_is_the_last_tenth_and_shares_no_paragraph_with_the_training_set():
    dataset = text()
    train, test = split(dataset.text)
    assert train + test == dataset.text and len(test) == len(dataset.text) // 10
    assert len(dataset.text) > 300_000
    paragraphs = [part.strip("\n") for part in dataset.text.split("\n\n")]
    assert not set(train.split("\n\n")[:-1]) & set(test.split("\n\n")[1:])
    assert len(paragraphs) > 1500
    repeated = [test[i : i + 65] in train for i in range(0, len(test) - 65, 65)]
    assert sum(repeated) < 0.01 * len(repeated)  # 9% without the removal of repeated paragraphs


def test_the_held_out_part_is_the_end_of_the_training_text():
    dataset = text()
    complete, data = load(dataset), load(dataset, train_fraction=0.9)
    end = round(0.9 * complete.train_examples)
    assert data.train_inputs.equal(complete.train_inputs[:end])
    assert data.test_inputs.equal(complete.train_inputs[end:])
    assert data.test_targets.equal(complete.train_targets[end:])


def test_the_vocabulary_is_that_of_the_training_text(tmp_path: Path):
    path = tmp_path / "book.txt"
    path.write_text("abc\n" * 300 + "abcé" * 30)
    dataset = text(f"text:{path}")
    assert list(dataset.vocabulary) == ["\n", "a", "b", "c"] and dataset.classes == 5
    tokens = load(dataset).test_inputs
    assert tokens.max() == 4 and "abc?abc?" in decoded(dataset, tokens)[0]


# ---------------------------------------------------------------------- model and training


def test_the_model_does_not_see_later_characters():
    torch.manual_seed(0)
    model = gpt(7, 12)
    tokens = torch.randint(7, (3, 12))
    changed = tokens.clone()
    changed[:, 8:] = (changed[:, 8:] + 1) % 7
    first, second = model(tokens), model(changed)
    assert first.shape == (3, 12, 7)
    torch.testing.assert_close(first[:, :8], second[:, :8])
    assert not torch.allclose(first[:, 8:], second[:, 8:])
    torch.testing.assert_close(model(tokens[:, :5]), first[:, :5])
    earlier = tokens.clone()
    earlier[:, 0] = (earlier[:, 0] + 1) % 7
    assert not torch.allclose(model(earlier)[:, 11], first[:, 11])


def test_the_attention_equals_that_of_torch():
    torch.manual_seed(0)
    block = gpt(7, 12).blocks[0]
    reference = torch.nn.MultiheadAttention(64, 4, batch_first=True)
    with torch.no_grad():
        layers = (block.query, block.key, block.value)
        reference.in_proj_weight.copy_(torch.cat([layer.weight for layer in layers]))
        reference.in_proj_bias.copy_(torch.cat([layer.bias for layer in layers]))
        reference.out_proj.load_state_dict(block.output.state_dict())
    x = torch.randn(2, 12, 64)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(12)
    expected, _ = reference(x, x, x, attn_mask=mask, need_weights=False)
    torch.testing.assert_close(block._attention(x), expected, atol=1e-5, rtol=1e-5)


def test_a_third_of_an_epoch_is_far_better_than_the_frequencies_of_characters():
    dataset = text()
    train, test = split(dataset.text)
    counts = Counter(train)
    entropy = -sum(math.log((counts[c] + 1) / (len(train) + dataset.classes)) for c in test)
    baseline = math.exp(entropy / len(test))
    trainer = Trainer(resolve("text/gpt", "adam", recipe={"epochs": 1}), CPU)
    data = trainer.data
    part = {name: getattr(data, name)[:1700] for name in ("train_inputs", "train_targets")}
    trainer.data = replace(data, **part)
    perplexity = trainer.run_epoch(0)["test/perplexity"]
    assert 20 < baseline < 30 and 2 < perplexity < 0.75 * baseline


# ---------------------------------------------------------------------- keys and refusals


def test_the_text_enters_the_key(book: Path):
    name = f"text:{book}/gpt"
    config = resolve(name, "adam")
    assert config.data == hashlib.sha256(book.read_bytes()).hexdigest()
    assert resolve(name, "adam") == config and deviations(config) == {}
    documentation = resolve("text/gpt", "adam")
    assert documentation.data == hashlib.sha256(text().text.encode()).hexdigest()
    book.write_text(book.read_text() + "the end\n")
    changed = resolve(name, "adam")
    assert changed.trial_key != config.trial_key
    with pytest.raises(DataError, match=f"requires data with the SHA-256 {config.data}"):
        Trainer(config, CPU)
    assert workload(name).source.content == changed.data


def test_a_relative_path_is_relative_to_the_data_folder(
    book: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PRECOND_DATA", str(book.parent))
    assert text("text:book.txt").content == text(f"text:{book}").content
    monkeypatch.setenv("HOME", str(book.parent))
    assert text("text:~/book.txt").content == text(f"text:{book}").content


def test_each_unusable_text_is_refused_in_one_line(tmp_path: Path):
    (tmp_path / "latin.txt").write_bytes("gar\u00e7on ".encode("latin-1") * 500)
    (tmp_path / "short.txt").write_text("a" * 999)
    (tmp_path / "blank.txt").write_text(" \n" * 5000)
    (tmp_path / "edge.txt").write_text("ab" * 500)
    for path, reason in {
        "nowhere.txt": "nowhere.txt: No such file or directory",
        ".": "is a folder: give the path of a file",
        "latin.txt": "byte 3 is not UTF-8: convert the file to UTF-8",
        "short.txt": "999 characters without surrounding white space: must be at least 1000",
        "blank.txt": "0 characters without surrounding white space: must be at least 1000",
        "a\0b": "null",
    }.items():
        with pytest.raises(HyperparameterError) as caught:
            resolve(f"text:{tmp_path / path}/gpt", "sgd")
        [line] = str(caught.value).splitlines()
        assert line.startswith(f"text:{tmp_path / path}: ") and reason in line
    with pytest.raises(HyperparameterError, match="a relative path is relative to --data-dir"):
        source("text:nowhere.txt")
    assert text(f"text:{tmp_path / 'edge.txt'}").test_examples == 1
