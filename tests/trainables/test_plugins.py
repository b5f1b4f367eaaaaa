"""User-defined optimizers and workloads: those in `examples/`, and errors in plugins."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import precond
from trainables import plugins
from trainables.config import TrialConfig
from trainables.store import TrialStore
from trainables.train import epochs
from trainables.workloads import resolve

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies" / "ablation_rank.py"


@pytest.fixture
def example_plugins() -> dict[str, Path]:
    """The two plugins in `examples/`."""
    examples = ROOT / "examples"
    return {"signsgd": examples / "custom_optimizer.py", "moons": examples / "custom_workload.py"}


def dry_run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, STUDY, *arguments, "--dry-run", "--json"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)


def train_trial(config: TrialConfig, root: Path) -> list[dict[str, float]]:
    store = TrialStore(root, config)
    store.create()
    return list(epochs(config, store))


def test_a_custom_optimizer_is_added_to_a_study(example_plugins, tmp_path):
    """Only the trials of the plugin's optimizer have the hash of its code in their configuration."""
    arguments = ["--optimizers", "signsgd,sgd", "--seeds", "1"]
    done = dry_run("--plugin", example_plugins["signsgd"], *arguments, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    trials = [json.loads(line)["config"] for line in done.stdout.splitlines()]
    configs = {config["optimizer"]: config for config in trials}
    code = plugins.load(example_plugins["signsgd"]).functions["signsgd"].digest
    assert configs["signsgd"]["plugin"] == code
    assert configs["sgd"]["plugin"] is None
    assert configs["signsgd"]["hyperparameters"] == {"lr": 0.001}
    assert not any(tmp_path.iterdir())


def test_a_custom_workload_trains(example_plugins, tmp_path):
    """The command without Ray requires `--plugin`, and trains all trials of the workload."""
    trials = tmp_path / "trials.jsonl"
    arguments = ["--workload", "moons/mlp", "--levels", "rank=1,2", "--seeds", "1"]
    done = dry_run("--plugin", example_plugins["moons"], *arguments, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    trials.write_text(done.stdout)
    command = [sys.executable, "-m", "trainables", trials, "--out", tmp_path / "out"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert refused.returncode == 2
    assert "--plugin" in refused.stderr
    command += ["--plugin", example_plugins["moons"]]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert completed.returncode == 0, completed.stderr
    lines = done.stdout.splitlines()
    configs = [TrialConfig.from_dict(json.loads(line)["config"]) for line in lines]
    assert len(configs) == 6
    for config in configs:
        store = TrialStore(tmp_path / "out", config)
        assert store.epochs()[-1]["metrics"]["test/accuracy"] > 0.8


def test_hyperparameters_of_a_custom_optimizer_are_checked(example_plugins):
    """The defaults are those of the signature; unknown names and invalid values are reported."""
    plugins.load(example_plugins["signsgd"])
    assert "signsgd" in precond.available()
    assert precond.defaults("signsgd") == {"lr": 0.001}
    assert precond.check("signsgd", {"lr": "high", "rate": 1}) == [
        "rate: unknown hyperparameter. Known: lr",
        "lr = 'high': must be a finite number",
    ]


def test_an_edited_plugin_gives_new_trials(tmp_path):
    """A process that has imported the old version of the file also imports the new version."""
    path, keys = tmp_path / "edited.py", []
    for version in (1, 2):
        path.write_text(
            "import torch\nfrom trainables.plugins import optimizer\n\n"
            "@optimizer\ndef edited(model, *, lr: float = 0.1):\n"
            f"    return torch.optim.SGD(model.parameters(), lr=lr / {version})\n"
        )
        plugins.load(path)
        config = resolve("digits/cnn", "edited", recipe={"epochs": 1})
        keys.append(config.trial_key)
        plugins.write_copy(path, tmp_path)
        assert train_trial(config, tmp_path)
    assert len(set(keys)) == 2


def test_a_modified_copy_is_refused_before_it_runs(example_plugins, tmp_path):
    """A copy is not imported if its code differs from that in the trial's configuration."""
    plugins.load(example_plugins["signsgd"])
    config = resolve("digits/cnn", "signsgd")
    plugins.write_copy(example_plugins["signsgd"], tmp_path)
    (copy,) = (tmp_path / "plugins").glob("*.py")
    copy.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + copy.read_text())
    plugins.unregister()
    with pytest.raises(plugins.PluginError, match="differs from the trial's plugin"):
        plugins.load_copies(tmp_path, config)
    assert not (tmp_path / "ran").exists()


INVALID = {
    "raises": ("x = 1\nraise RuntimeError('no')\n", r"line 2: RuntimeError: no$"),
    "syntax": ("x = 1\ndef f(:\n", r"line 2: SyntaxError"),
    "nothing": ("x = 1\n", "registers nothing"),
    "existing optimizer": (
        "from trainables.plugins import optimizer\n"
        "@optimizer\ndef sgd(model, *, lr=0.1):\n    pass\n",
        r'"sgd" exists already',
    ),
    "existing workload": (
        "from trainables.plugins import workload\n"
        "@workload('digits/cnn', data=None, batch_size=1, epochs=1)\ndef f():\n    pass\n",
        r'"digits/cnn" exists already',
    ),
    "no slash": (
        "from trainables.plugins import workload\n"
        "@workload('digits', data=None, batch_size=1, epochs=1)\ndef f():\n    pass\n",
        r'workload "digits": must be DATA/MODEL',
    ),
    "no default": (
        "from trainables.plugins import optimizer\n@optimizer\ndef mine(model, *, lr):\n    pass\n",
        "mine: lr has no default",
    ),
}


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_plugin_is_an_error_of_one_line_and_registers_nothing(case, tmp_path):
    """The message contains the file and the reason."""
    content, expected = INVALID[case]
    path = tmp_path / "mine.py"
    path.write_text(content)
    before = precond.available()
    with pytest.raises(plugins.PluginError, match=expected) as caught:
        plugins.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert precond.available() == before


def test_the_command_line_refuses_an_invalid_plugin(tmp_path):
    """Invalid and missing files give exit code 2 and one line, and nothing is written."""
    (tmp_path / "raises.py").write_text("raise RuntimeError('no')\n")
    for name, expected in {"raises.py": "RuntimeError: no", "missing.py": "No such file"}.items():
        done = dry_run("--plugin", tmp_path / name, "--out", tmp_path / "out")
        assert done.returncode == 2
        assert done.stderr.startswith("error: --plugin")
        assert expected in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_invalid_data_of_a_plugin_are_reported_before_training(tmp_path):
    path = tmp_path / "odd.py"
    path.write_text(
        "import torch\nfrom torch import nn\nfrom trainables.plugins import workload\n\n"
        "def data():\n    x, y = torch.zeros(4, 2), torch.zeros(4)\n    return x, y, x, y\n\n"
        "@workload('odd/linear', data=data, batch_size=2, epochs=1)\n"
        "def linear():\n    return nn.Linear(2, 2)\n"
    )
    arguments = ["--workload", "odd/linear", "--levels", "rank=1"]
    done = dry_run("--plugin", path, *arguments, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "labels are [4] float32: must be [n] int64 for classification" in done.stderr
    assert "Traceback" not in done.stderr


def write_workload(path: Path, inputs: str, model: str) -> Path:
    """Write a plugin with the workload `toy/model`, which has two classes and four examples."""
    path.write_text(
        "import torch\nfrom torch import nn\nfrom trainables.plugins import workload\n\n"
        f"def data():\n    x, y = {inputs}, torch.tensor([0, 1, 0, 1])\n    return x, y, x, y\n\n"
        "@workload('toy/model', data=data, batch_size=2, epochs=1)\n"
        f"def model():\n    return {model}\n"
    )
    return path


@pytest.mark.parametrize(
    ("inputs", "model", "message"),
    [
        (
            "torch.zeros(4, 3, dtype=torch.float64)",
            "nn.Linear(3, 2)",
            "data of toy: inputs are torch.float64: convert them to torch.float32",
        ),
        ("torch.zeros(1, 2) @ torch.zeros(1, 2)", "nn.Linear(3, 2)", "data of toy: RuntimeError: "),
        ("torch.zeros(4, 3)", "nn.Linear(5, 2)", "model of toy/model: RuntimeError: "),
        ("torch.zeros(4, 3)", "nn.Linear(3)", "model of toy/model: TypeError: "),
        (
            "torch.zeros(4, 3)",
            "nn.Linear(3, 7)",
            "model of toy/model: the output for 2 examples is [2, 7]: must be [2, 2], because the "
            "labels have 2 classes",
        ),
        ("torch.zeros(4, 3)", "nn.LSTM(3, 2)", "model of toy/model: the output for 2 examples is"),
    ],
)
def test_an_unusable_plugin_workload_is_an_error_of_one_line_at_planning(
    tmp_path, inputs, model, message
):
    plugins.load(write_workload(tmp_path / "toy.py", inputs, model))
    with pytest.raises(precond.HyperparameterError) as error:
        resolve("toy/model", "sgd")
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_planning_a_plugin_workload_draws_no_random_numbers(tmp_path):
    plugins.load(write_workload(tmp_path / "toy.py", "torch.zeros(4, 3)", "nn.Linear(3, 2)"))
    before = torch.get_rng_state()
    assert resolve("toy/model", "sgd").workload == "toy/model"
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["ValueError", "TypeError"])
def test_a_plugin_optimizer_rejects_its_hyperparameters_at_planning(tmp_path, name):
    path = tmp_path / "picky.py"
    path.write_text(
        "import torch\nfrom trainables.plugins import optimizer\n\n"
        "@optimizer\ndef picky(model, *, lr: float = 0.1):\n"
        f"    if lr > 1:\n        raise {name}('too large\\nfor this optimizer')\n"
        "    return torch.optim.SGD(model.parameters(), lr=lr)\n"
    )
    plugins.load(path)
    assert resolve("digits/cnn", "picky").hyperparameters == {"lr": 0.1}
    with pytest.raises(precond.HyperparameterError) as error:
        resolve("digits/cnn", "picky", {"lr": 2.0})
    assert str(error.value) == f"picky with lr = 2.0: {name}: too large"


def test_the_command_line_refuses_hyperparameters_that_a_plugin_rejects(tmp_path):
    path = tmp_path / "strict.py"
    path.write_text(
        "import torch\nfrom trainables.plugins import optimizer\n\n"
        "@optimizer\ndef strict(model, *, lr: float = 0.1):\n"
        "    return torch.optim.SGD(model.parameters(), lr=lr)\n"
    )
    arguments = ["--plugin", path, "--optimizers", "strict", "--set", "lr=-1.0"]
    done = dry_run(*arguments, "--out", tmp_path / "out")
    assert done.returncode == 2
    message = "error: strict with lr = -1.0: ValueError: Invalid learning rate: -1.0\n"
    assert done.stderr == message
