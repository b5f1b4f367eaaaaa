"""User-defined optimizers and workloads: those in `examples/`, and errors in others."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import precond
from trainables import plugins
from trainables.config import TrialConfig
from trainables.store import TrialStore
from trainables.train import epochs
from trainables.workloads import resolve

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies" / "ablation_rank.py"


@pytest.fixture
def files() -> dict[str, Path]:
    """The two plugins in `examples/`."""
    examples = ROOT / "examples"
    return {"signsgd": examples / "custom_optimizer.py", "moons": examples / "custom_workload.py"}


def dry_run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, STUDY, *arguments, "--dry-run", "--json"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)


def train(config: TrialConfig, root: Path) -> list[dict[str, float]]:
    store = TrialStore(root, config)
    store.create()
    return list(epochs(config, store))


def test_a_custom_optimizer_is_planned_beside_a_study(files, tmp_path):
    """Its trials, and only those, have the file's hash in their key."""
    done = dry_run(
        "--plugin",
        files["signsgd"],
        "--optimizers",
        "signsgd,sgd",
        "--seeds",
        "1",
        "--out",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    configs = {
        doc["config"]["optimizer"]: doc["config"]
        for doc in map(json.loads, done.stdout.splitlines())
    }
    sha = hashlib.sha256(files["signsgd"].read_bytes()).hexdigest()
    assert configs["signsgd"]["plugin"] == sha
    assert configs["sgd"]["plugin"] is None
    assert configs["signsgd"]["hyperparameters"] == {"lr": 0.001}
    assert not any(tmp_path.iterdir())


def test_a_custom_workload_trains(files, tmp_path):
    """In a process that has only the copy in the output folder, as a worker has."""
    trials = tmp_path / "trials.jsonl"
    done = dry_run("--plugin", files["moons"], "--workload", "moons/mlp", "--levels", "rank=1,2", "--seeds", "1",
                   "--out", tmp_path / "out")  # fmt: skip
    assert done.returncode == 0, done.stderr
    trials.write_text(done.stdout)
    command = [sys.executable, "-m", "trainables", trials, "--out", tmp_path / "out"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert refused.returncode == 2
    assert "--plugin" in refused.stderr
    ran = subprocess.run(
        [*command, "--plugin", files["moons"]],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
    )
    assert ran.returncode == 0, ran.stderr
    configs = [
        TrialConfig.from_dict(json.loads(line)["config"]) for line in done.stdout.splitlines()
    ]
    assert len(configs) == 6
    for config in configs:
        store = TrialStore(tmp_path / "out", config)
        assert store.epochs()[-1]["metrics"]["test/accuracy"] > 0.8


def test_a_registered_optimizer_is_one_of_all(files):
    """It is built and checked like the others; a value of another type is refused with the type."""
    plugins.load(files["signsgd"])
    assert "signsgd" in precond.available()
    assert precond.defaults("signsgd") == {"lr": 0.001}
    assert precond.check("signsgd", {"lr": "high", "rate": 1}) == [
        "rate: unknown hyperparameter. Known: lr",
        "lr = 'high': must be a finite number",
    ]


def test_an_edited_plugin_means_new_trials(tmp_path):
    """A worker that has run the old file takes up the new one."""
    path, keys = tmp_path / "again.py", []
    for version in (1, 2):
        path.write_text(
            "import torch\nfrom trainables.plugins import optimizer\n\n"
            "@optimizer\ndef again(model, *, lr: float = 0.1):\n"
            f"    return torch.optim.SGD(model.parameters(), lr=lr / {version})\n"
        )
        plugins.load(path)
        config = resolve("digits/cnn", "again", recipe={"epochs": 1})
        keys.append(config.trial_key)
        plugins.keep(path, tmp_path)
        assert train(config, tmp_path)
    assert len(set(keys)) == 2


def test_a_changed_copy_is_refused(files, tmp_path):
    """What a trial runs is what its key says."""
    sha = plugins.load(files["signsgd"])
    plugins.keep(files["signsgd"], tmp_path)
    plugins.kept(tmp_path, sha).write_text("print('evil')\n")
    with pytest.raises(plugins.PluginError, match="not those of the trial's plugin"):
        plugins.load(plugins.kept(tmp_path, sha), sha)


WRONG = {
    "raises": ("x = 1\nraise RuntimeError('no')\n", r"line 2: RuntimeError: no$"),
    "syntax": ("x = 1\ndef f(:\n", r"line 2: SyntaxError"),
    "nothing": ("x = 1\n", "registers nothing"),
    "taken": (
        "from trainables.plugins import optimizer\n@optimizer\ndef sgd(model, *, lr=0.1):\n    pass\n",
        r'"sgd" is taken',
    ),
    "taken workload": (
        "from trainables.plugins import workload\n@workload('digits/cnn', data=None, batch_size=1, epochs=1)\n"
        "def f():\n    pass\n",
        r'"digits/cnn" is taken',
    ),
    "no slash": (
        "from trainables.plugins import workload\n@workload('digits', data=None, batch_size=1, epochs=1)\n"
        "def f():\n    pass\n",
        r'workload "digits": must be a name, a slash',
    ),
    "no default": (
        "from trainables.plugins import optimizer\n@optimizer\ndef mine(model, *, lr):\n    pass\n",
        "mine: lr has no default",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_plugin_that_cannot_be_used_is_one_line(case, tmp_path):
    """With the file, the line where it raised, and what is wrong; nothing stays registered."""
    content, expected = WRONG[case]
    path = tmp_path / "mine.py"
    path.write_text(content)
    before = precond.available()
    with pytest.raises(plugins.PluginError, match=expected) as caught:
        plugins.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert precond.available() == before


def test_the_command_line_refuses_a_bad_plugin(tmp_path):
    """Exit code 2, one line, nothing written; a missing file, too."""
    (tmp_path / "bad.py").write_text("raise RuntimeError('no')\n")
    for name, expected in {"bad.py": "RuntimeError: no", "missing.py": "No such file"}.items():
        done = dry_run("--plugin", tmp_path / name, "--out", tmp_path / "out")
        assert done.returncode == 2
        assert done.stderr.startswith("error: --plugin")
        assert expected in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_data_that_do_not_belong_together_are_one_line(tmp_path):
    """Before anything is trained."""
    path = tmp_path / "odd.py"
    path.write_text(
        "import torch\nfrom torch import nn\nfrom trainables.plugins import workload\n\n"
        "def data():\n    x, y = torch.zeros(4, 2), torch.zeros(4)\n    return x, y, x, y\n\n"
        "@workload('odd/one', data=data, batch_size=2, epochs=1)\ndef one():\n    return nn.Linear(2, 2)\n"
    )
    done = dry_run(
        "--plugin", path, "--workload", "odd/one", "--out", tmp_path / "out", "--levels", "rank=1"
    )
    assert done.returncode == 2
    assert "labels must be [n] int64" in done.stderr
    assert "Traceback" not in done.stderr
