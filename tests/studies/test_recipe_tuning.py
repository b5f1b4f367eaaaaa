"""`python -m studies tune-recipe`: the ledger, resuming, the report; trials run without Ray."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import folders
import pytest

from studies.harness.cluster import execute
from studies.harness.command import cli, manage
from studies.harness.command.estimate import probe
from studies.harness.command.run import run_command
from studies.harness.design.arms import Arm, Trial, grid
from studies.harness.design.options import Options
from studies.harness.kinds.tuning.plan import TuningPlan
from studies.harness.kinds.tuning.report import literal, read, report
from studies.harness.kinds.tuning.tuning import RecipeTuning
from studies.harness.report import tuning as section
from studies.harness.report.document import Table, Text
from trainables.recipes import tuning
from trainables.recipes.tuning import Ledger, Row, committed_ledger, configurations
from trainables.store import COMPLETED, DIVERGED, FAILED, TrialStore
from trainables.train import epochs
from trainables.workloads import RECIPES, resolve

WORKLOAD = "digits/autoencoder"
OTHERS = "default: all others"  # the end of a cell about the sources of the values
SMALL = RecipeTuning(workload=WORKLOAD, budget=2, seeds=(100, 101))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Train the trials in this process. The list receives the arm and seed of each trained trial."""
    labels: list[str] = []

    def train(
        trials: Sequence[Trial], options: Options, generation: int, progress, on_lost, prepare
    ) -> str:
        prepare()
        for trial in trials:
            labels.append(f"{trial.arm.label} s{trial.config.seed}")
            store = TrialStore.open(options.root, trial.config.trial_key, generation)
            for metrics in epochs(trial.config, store):
                progress.epoch(trial.config.trial_key, int(metrics["epoch"]), metrics)
            progress.finished(trial.config.trial_key)
        return "done"

    monkeypatch.setattr(execute, "train", train)
    return labels


def run_small(root: Path, **options) -> int:
    common = {"out": root, "tracking_uri": "none", "epochs": 3, "optimizers": ["sgd", "foof"]}
    return run_command([SMALL], Options(**{**common, **options}))


def make_plan(root: Path, tuned: RecipeTuning, *optimizers: str, **options) -> TuningPlan:
    (plan,) = tuned.plan(Options(out=root, optimizers=list(optimizers), **options))
    return plan


def write_scores(plan: TuningPlan, score) -> None:
    """Write completed trial folders; a score of None gives a diverged trial."""
    for trial in plan.trials:
        store = TrialStore(plan.root, trial.config)
        store.create()
        store.begin(folders.PROVENANCE)
        number = configurations(trial.arm.optimizer, plan.artefact.budget).index(
            trial.arm.overrides
        )
        value = score(trial.arm.optimizer, number, trial.config.seed)
        store.record(0, {plan.metric: 0.3 if value is None else value})
        store.finish(DIVERGED if value is None else COMPLETED)


def test_the_plan_has_the_same_number_of_configurations_and_seeds_for_each_optimizer():
    (plan,) = RecipeTuning(workload=WORKLOAD).plan(Options())
    assert len(plan.trials) == len(tuning.SPACES) * 16 * 3
    assert len({trial.config.trial_key for trial in plan.trials}) == len(plan.trials)
    assert {trial.config.seed for trial in plan.trials} == {100, 101, 102}
    assert {trial.config.train_fraction for trial in plan.trials} == {0.9}
    assert plan.metric == "val/mse"


def test_other_hyperparameters_are_those_of_the_recipe():
    (plan,) = RecipeTuning(workload="digits/cnn").plan(Options(optimizers=["ekfac"]))
    recipe = resolve("digits/cnn", "ekfac").hyperparameters
    for trial in plan.trials:
        values = trial.config.hyperparameters
        assert {name for name in values if values[name] != recipe[name]} <= {"lr", "damping"}
        assert values["basis_interval"] == 50


def test_a_second_command_trains_nothing_and_writes_the_same_files(
    tmp_path: Path, trained: list[str]
):
    assert run_small(tmp_path) == 0
    assert len(trained) == 2 * 2 * 2 and trained[0].startswith("sgd lr=")
    [folder] = (tmp_path / "tune-recipe").iterdir()
    assert folder.name == "digits-autoencoder+optimizers=foof,sgd+epochs=3"
    files = {path.name: path.read_bytes() for path in folder.glob("[!.]*")}
    assert {"ledger.csv", "recipe.py", "report.md", "report.html"} <= set(files)
    trained.clear()
    assert run_small(tmp_path) == 0 and trained == []
    assert {path.name: path.read_bytes() for path in folder.glob("[!.]*")} == files
    assert run_small(tmp_path, optimizers=["adam"]) == 0 and len(trained) == 4
    results = Ledger.from_csv(files["ledger.csv"].decode())
    assert results.metric == "val/mse" and results.optimizers == ["sgd", "foof"]
    scores = {row.optimizer: row.score for row in results.rows if row.status == COMPLETED}
    assert set(scores) == {"sgd", "foof"} and min(scores.values()) > 0
    assert {row.status for row in results.rows} <= {COMPLETED, DIVERGED}
    assert not (tmp_path / "mlflow.db").exists()


def test_the_ledger_and_the_recipe_have_the_values_of_the_trial_folders(tmp_path: Path):
    plan = make_plan(tmp_path, RecipeTuning(workload=WORKLOAD), "sgd", "kfac")
    write_scores(plan, lambda name, number, seed: None if number == 6 else abs(number - 6.1) + seed)
    results = read(plan)
    winner = results.winner("kfac")
    assert winner is not None and winner.configuration == 7
    assert winner.mean == pytest.approx(101.9)
    assert results.ranking("sgd")[-1].configuration == 6
    recipe = literal(results, RECIPES["digits/cnn"])
    expected = {
        "sgd": {"lr": configurations("sgd")[7]["lr"]},
        "kfac": configurations("kfac")[7],
    }
    assert eval(f"dict({recipe})") == {"optimizers": expected}
    content = report(plan)
    assert not content.failed and content.findings == []
    assert content.listing is not None
    best = f"lr={winner.values['lr']:g}, damping={winner.values['damping']:g}"
    assert content.listing.rows[1][:3] == ["kfac", best, "101.9"]


def test_the_report_warns_of_edges_and_of_missing_results(tmp_path: Path):
    plan = make_plan(tmp_path, RecipeTuning(workload=WORKLOAD), "sgd", "adam", "foof")
    sgd = replace(plan, trials=[t for t in plan.trials if t.arm.optimizer == "sgd"])
    adam = replace(plan, trials=[t for t in plan.trials if t.arm.optimizer == "adam"])
    write_scores(sgd, lambda name, number, seed: 1 + number)
    write_scores(adam, lambda *trial: None)
    content = report(plan)
    assert content.findings == [
        "sgd: the winner has the smallest or largest value tried (lr=0.0012); a value beyond it may "
        "be better.",
        "adam: no configuration has completed with all seeds.",
        "foof: 48 trials to go, so there is no final winner yet.",
    ]
    recipe = (plan.folder / "recipe.py").read_text()
    assert recipe == 'optimizers={\n    "sgd": {"lr": 0.0012},\n},\n'


def test_failed_trials_give_exit_code_1(tmp_path: Path):
    plan = make_plan(tmp_path, SMALL, "sgd", epochs=3)
    for trial in plan.trials:
        store = TrialStore(tmp_path, trial.config)
        store.create()
        store.finish(FAILED, reason="no memory")
    assert run_small(tmp_path, optimizers=["sgd"]) == 1


# ---------------------------------------------------------------------- the command


@pytest.fixture
def run_studies_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    """Return a function that runs `python -m studies` in this process, in an empty folder."""

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["studies", *arguments])
        return cli.invoke(manage.GROUP), *capsys.readouterr()

    return command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["digits/autoencodr"],
            'workload = "digits/autoencodr": unknown. Did you mean "digits/aut',
        ),
        (
            [WORKLOAD, "--optimizers", "sgd,fof"],
            '--optimizers = "fof": tune-recipe has no search space for it. Did',
        ),
        ([WORKLOAD, "--max-concurrent", "0"], "--max-concurrent = 0: must be an integer >= 1"),
        ([WORKLOAD, "--seeds", "3"], "--seeds: unknown option."),
        ([], "Missing argument 'WORKLOAD'. See --help"),
    ],
)
def test_invalid_commands_print_one_line_and_write_nothing(
    run_studies_command, tmp_path: Path, arguments: list[str], message: str
):
    code, out, err = run_studies_command("tune-recipe", *arguments)
    assert code == 2 and out == "" and len(err.splitlines()) == 1
    assert err.startswith(f"error: {message}")
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_the_values_for_the_recipe(run_studies_command, tmp_path: Path):
    plan = make_plan(tmp_path / "outputs", RecipeTuning(workload=WORKLOAD), "sgd")
    write_scores(plan, lambda name, number, seed: abs(number - 6.1) + seed)
    code, out, _ = run_studies_command("tune-recipe", WORKLOAD, "--optimizers", "sgd")
    assert code == 0 and "48 trials (1 optimizer x 16 configurations x 3 seeds): 48 done" in out
    assert 'optimizers={\n    "sgd": {"lr": 0.017},\n},\n' in out
    assert "trainables/recipes/ledgers/digits-autoencoder.csv" in out
    file = plan.folder / "recipe-ledger.csv"
    before, merged = committed_ledger(WORKLOAD), Ledger.from_csv(file.read_text())
    assert before is not None and set(merged.optimizers) == set(before.optimizers)
    assert f"{file.name} trainables/" in out and merged.winner("sgd") != before.winner("sgd")
    assert merged.winner("kfac") == before.winner("kfac")


def test_a_dry_run_estimates_the_time_and_writes_nothing(run_studies_command, tmp_path: Path):
    code, out, _ = run_studies_command(
        *("tune-recipe", WORKLOAD, "--optimizers", "sgd", "--dry-run")
    )
    assert code == 0 and "48 to go" in out and "Training takes about" in out
    assert list(tmp_path.iterdir()) == []


def test_the_estimate_uses_the_loss_of_the_workload():
    seconds, size, _ = probe(resolve(WORKLOAD, "sgd"), steps=2)
    assert 0 < seconds < 0.1 and size > 4 * 38_416


# ---------------------------------------------------------------------- the section of a report


def planned(arms: Sequence[Arm]) -> list[Trial]:
    return [Trial(arm, arm.resolve("digits/cnn")) for arm in arms]


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """Return a ledger of `digits/cnn` that replaces the committed ledgers."""
    winners = {"sgd": 10, "nysact-s": 4}
    rows = [
        Row(name, number, values, seed, COMPLETED, 0.9 if number == winners[name] else 0.8)
        for name in winners
        for number, values in enumerate(configurations(name))
        for seed in tuning.SEEDS
    ]
    ledger = Ledger("val/accuracy", rows)
    (tmp_path / "digits-cnn.csv").write_text(ledger.to_csv())
    monkeypatch.setattr(tuning, "LEDGERS", tmp_path)
    return ledger


def test_the_section_compares_the_trials_with_the_ledger(committed: Ledger):
    winner = configurations("nysact-s")[4]
    arms = [
        Arm(optimizer="sgd", overrides={"lr": configurations("sgd")[10]["lr"]}),
        *grid("nysact-s", damping=[winner["damping"], 2.0]),
        Arm(optimizer="adam"),
    ]
    _, text, table = section.section(planned(arms))
    assert isinstance(table, Table) and isinstance(text, Text)
    assert "`python -m studies tune-recipe digits/cnn` chose" in text.text
    assert "not tuned with the same number of configurations" in text.text
    values = f"lr={winner['lr']:g}, damping={winner['damping']:g}"
    size = "16 x 3 seeds (100 to 102)"
    change = "set by the study or the command line"
    assert table.rows == [
        ["sgd", "lr 0.001 to 1", size, "lr=0.093", "90.00%", f"{change}: lr=0.093; {OTHERS}"],
        [
            *("nysact-s", "lr 0.001 to 1, damping 0.03 to 10", size, values, "90.00%"),
            f"not tuned (provisional): lr; varied: damping; {OTHERS}",  # the recipe has lr=0.3
        ],
        ["adam", "-", "-", "-", "-", OTHERS],
    ]


@pytest.mark.parametrize(
    ("workload", "optimizer", "as_released", "sources"),
    [
        ("digits/cnn", "nysact-s", False, f"tuned: lr, damping; {OTHERS}"),
        ("digits/cnn", "kfac", True, "tuned: lr; released code: damping, damping_rule, "),
        ("digits/cnn", "steve", False, "tuned: lr; not tuned (provisional): basis_interval; "),
        ("mnist5k/mlp", "nysact-s", False, f"not tuned (provisional): lr, damping; {OTHERS}"),
        ("cifar10/resnet32", "sgd", False, "recipe of the NysAct paper: lr, momentum, "),
    ],
)
def test_each_value_has_a_source(workload: str, optimizer: str, as_released: bool, sources: str):
    arm = Arm(optimizer=optimizer, as_released=as_released)
    _, _, table = section.section([Trial(arm, arm.resolve(workload))])
    assert isinstance(table, Table) and table.rows[0][-1].startswith(sources)


def test_a_recipe_that_was_tuned_by_hand_names_its_search():
    arms = [Arm(optimizer=name) for name in ("sgd", "nysact-s")]
    _, text, table = section.section([Trial(arm, arm.resolve("digits/mlp")) for arm in arms])
    assert isinstance(table, Table) and isinstance(text, Text)
    assert table.rows[0][1:5] == [
        *("lr 0.01 to 0.3 on digits/cnn", "4 x 3 seeds (100 to 102)", "lr=0.1", "98.67%")
    ]
    assert table.rows[1][1] == "lr 0.01 to 1, damping 0.1 to 1 for foof on digits/cnn"
    assert "selected on the test set" in text.text


@pytest.mark.parametrize("workload", ["digits/cnn", "digits/mlp"])
def test_the_recipe_has_the_values_that_were_selected_by_hand(workload: str):
    recipe = RECIPES[workload]
    for optimizer, tuned in recipe.tuned.items():
        values = {name: recipe.optimizers[optimizer][name] for name in tuned.ranges}
        assert values == tuned.values
        assert all(lo <= values[name] <= hi for name, (lo, hi) in tuned.ranges.items())


def test_a_report_contains_the_section(tmp_path: Path, committed: Ledger):
    trials = folders.planned(seeds=1)
    for trial in trials:
        folders.write_trial(tmp_path, trial)
    text = folders.report(tmp_path, trials).files[0].read_text()
    assert "<summary>Tuning</summary>" in text
    assert "| sgd | lr 0.001 to 1 | 16 x 3 seeds (100 to 102) |" in text
