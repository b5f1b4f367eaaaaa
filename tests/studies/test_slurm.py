"""The jobs on Slurm: the scripts, their submission, and their behaviour with simulated commands."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from studies.harness.command import manage, slurm
from studies.harness.command.cli import invoke
from studies.harness.command.slurm_scripts import Job, array_script, report_script, study_script

SMALL = ["--seeds", "2", "--epochs", "3", "--levels", "rank=5,10"]
SCRIPT = """#!/bin/bash
# Run ablation_rank until it is complete.
# Written by `python -m studies slurm`.
#SBATCH --job-name=ablation_rank
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=2
#SBATCH --time=12:00:00
#SBATCH --partition=long
#SBATCH --account=physics
#SBATCH --chdir=/home/me
#SBATCH --output='/shared/my outputs/slurm/%x-%j.log'
# The nodes are not shared, because `ray symmetric-run` ends every Ray process on them.
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@120

export PATH=/project/.venv/bin:$PATH
export PRECOND_OUT='/shared/my outputs'
unset RAY_ADDRESS
OUT='/shared/my outputs'

# A folder for the process id and the exit code of the program that this job runs.
export RUN=$(mktemp -d)
PROGRAM='"$@" & echo $! > "$RUN/pid"; wait $!; echo $? > "$RUN/code"'

# Stop the program; it commits its results. If it has not started yet, stop what starts it.
stop() {
  if [ -s "$RUN/pid" ]; then
    kill -TERM "$(cat "$RUN/pid")"
  else
    echo 143 > "$RUN/code"
    kill -TERM "$STEP"
  fi
}
trap stop TERM

# Print a digest of the results in the output folder, which shows whether a run added any.
results() {
  (cd "$OUT" && find . \\( -name epochs.jsonl -o -name status.json -o -path './cost/*' \\
    -o -path './probes/*' \\) -printf '%p %s\\n' | sort | cksum)
}
BEFORE=$(results)

# A random token and a port of this job, so that other jobs cannot use its Ray cluster.
HEAD=$(hostname -I | cut -d' ' -f1):$((20000 + SLURM_JOB_ID % 10000))
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
export RAY_gcs_rpc_server_reconnect_timeout_s=10  # the other nodes end soon after the first
# The log of the job contains the output of the program; that of Ray has its own file.
export LOG=$(readlink /proc/$$/fd/1)
PROGRAM="exec >> \\"\\$LOG\\" 2>&1; $PROGRAM"

srun --ntasks-per-node=1 --cpu-bind=none --cpus-per-task=8 --open-mode=append \\
  --output='/shared/my outputs/slurm/%x-%j-ray.log' \\
  ray symmetric-run --address "$HEAD" --min-nodes 4 --num-cpus=8 --num-gpus=2 -- \\
  bash -c "$PROGRAM" program \\
  python /project/studies/ablation_rank.py --set damping=0.1 --address "$HEAD" &
STEP=$!
while kill -0 "$STEP" 2> /dev/null; do wait "$STEP"; done
code=$(cat "$RUN/code" 2> /dev/null || echo 4)  # there is no code if the program did not start
rm -r "$RUN"

# 3 and 143 mean stopped, but not complete. Do not requeue a job that was cancelled, or whose
# second or later run added no result: it would repeat without end.
state=$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T)
if [[ $code == 3 || $code == 143 ]] && [[ $state == RUNNING ]]; then
  if (( ${SLURM_RESTART_COUNT:-0} > 0 )) && [[ $(results) == "$BEFORE" ]]; then
    echo "stopped before the end (exit code $code), and this run committed no epoch: the job ends;" \\
      "submit it with a longer --time"
  else
    echo "stopped before the end (exit code $code): back to the queue"
    scontrol requeue "$SLURM_JOB_ID"
  fi
fi
exit "$code"
"""


def job(folder: Path, **requests) -> Job:
    values = {"study": "ablation_rank", "time": "01:00:00", "folder": folder / "slurm"}
    return Job(**{**values, "directory": folder, "programs": folder / "fakes", **requests})


# ---------------------------------------------------------------------- the text of the scripts


def test_script_for_several_nodes():
    requests = job(
        Path("/shared/my outputs"),
        nodes=4,
        gpus=2,
        cpus=8,
        time="12:00:00",
        partition="long",
        account="physics",
        directory=Path("/home/me"),
        programs=Path("/project/.venv/bin"),
        variables=(("PRECOND_OUT", "/shared/my outputs"),),
    )
    command = ["python", "/project/studies/ablation_rank.py", "--set", "damping=0.1"]
    assert study_script(requests, command) == SCRIPT


def test_script_for_one_node_shares_the_node_and_starts_no_cluster(tmp_path: Path):
    script = study_script(job(tmp_path), ["python", "study.py"])
    assert 'bash -c "$PROGRAM" program \\\n  python study.py &\n' in script
    assert not any(word in script for word in ("exclusive", "symmetric-run", "srun", "--address"))


def test_every_script_is_valid_bash_also_with_unusual_names(tmp_path: Path):
    odd, command = job(tmp_path / "it's $HOME"), ["python", "a b.py", "--set", "x='$(y)`"]
    scripts = [
        study_script(odd, command),
        study_script(job(tmp_path, nodes=2), command),
        array_script(odd, 3, tmp_path / "a 'b.jsonl", command),
        report_script(odd, command),
    ]
    for script in scripts:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_tasks_of_an_array_have_disjoint_shares_of_all_trials(tmp_path: Path, run_script):
    trials = tmp_path / "trials.jsonl"
    trials.write_text("".join(f"{number}\n" for number in range(7)))
    shares = []
    for task in range(3):
        script = array_script(job(tmp_path), 3, trials, ["cat"])
        process = run_script(script, SLURM_ARRAY_TASK_ID=str(task))
        assert process.wait(10) == 0
        shares.append([int(line) for line in (tmp_path / "log").read_text().split()])
    assert sorted(line for share in shares for line in share) == list(range(7))
    assert {len(share) for share in shares} == {2, 3}


# ---------------------------------------------------------------------- the scripts in action

FAKES = {
    # Runs the task as `srun` does on the first node.
    "srun": 'while [[ $1 == --* ]]; do shift; done; "$@"\nexit 0',
    # Runs the entrypoint, then exits with its code.
    "ray": 'until [[ $1 == -- ]]; do shift; done; shift; "$@"',
    "scontrol": 'echo "scontrol $*" >> "$CALLS"',
    "squeue": 'echo "$STATE"',
    "sbatch": 'echo "sbatch $*" >> "$CALLS"; echo "${JOB:-7};cluster"',
    "scancel": 'echo "scancel $*" >> "$CALLS"',
    "sinfo": 'echo "(null)"; echo "gpu:a100:4(S:0-1),gpu:t4:1"; echo "gpu:2"',
}
# Waits for a signal or for the file `end`; exits with the code of its name.
WAITING = """
trap 'echo stopped; exit "$ON_TERM"' TERM
echo started
for i in $(seq 500); do [ -e "$END" ] && exit "$CODE"; sleep 0.02; done
"""


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put simulated commands of Slurm into PATH; return the file with their calls."""
    folder, calls = tmp_path / "fakes", tmp_path / "calls"
    folder.mkdir()
    for name, body in FAKES.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    calls.touch()
    monkeypatch.setenv("PATH", f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(calls))
    monkeypatch.setenv("STATE", "RUNNING")
    return calls


@pytest.fixture
def run_script(tmp_path: Path, fakes: Path):
    """Return a function that starts a script as Slurm does; its log is the file `log`."""
    processes = []

    def run(script: str, **variables: str) -> subprocess.Popen[bytes]:
        (tmp_path / "job.sbatch").write_text(script)
        environment = {**os.environ, "SLURM_JOB_ID": "7", **variables}
        (tmp_path / "log").write_bytes(b"")
        with open(tmp_path / "log", "ab") as log:
            process = subprocess.Popen(
                ["bash", tmp_path / "job.sbatch"], env=environment, stdout=log
            )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture(params=[1, 2], ids=["one node", "two nodes"])
def script(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return study_script(job(tmp_path, nodes=request.param), ["bash", "-c", WAITING])


def wait_for(text: str, log: Path) -> None:
    deadline = time.monotonic() + 20
    while text not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)


@pytest.mark.parametrize("code", [0, 1, 2, 4, 137])
def test_job_ends_with_the_code_of_the_study(script: str, code: int, tmp_path: Path, run_script):
    process = run_script(script, END="/", CODE=str(code))
    assert process.wait(20) == code
    assert (tmp_path / "calls").read_text() == ""


@pytest.mark.parametrize("code", [143, 0])
def test_sigterm_reaches_the_study_and_the_job_continues_later_unless_complete(
    script: str, code: int, tmp_path: Path, run_script
):
    process = run_script(script, END="/absent", ON_TERM=str(code))
    wait_for("started", tmp_path / "log")
    process.terminate()
    process.terminate()
    assert process.wait(20) == code
    log = (tmp_path / "log").read_text()
    assert log.count("stopped\n") == 1
    calls = (tmp_path / "calls").read_text()
    assert calls == ("scontrol requeue 7\n" if code == 143 else "")
    assert ("back to the queue" in log) == (code == 143)


def test_study_that_has_used_its_time_budget_continues_later(script: str, tmp_path, run_script):
    assert run_script(script, END="/", CODE="3").wait(20) == 3
    assert (tmp_path / "calls").read_text() == "scontrol requeue 7\n"


@pytest.mark.parametrize("state", ["COMPLETING", ""])
def test_cancelled_job_does_not_continue(script: str, state: str, tmp_path: Path, run_script):
    process = run_script(script, END="/absent", ON_TERM="143", STATE=state)
    wait_for("started", tmp_path / "log")
    process.terminate()
    assert process.wait(20) == 143
    assert (tmp_path / "calls").read_text() == ""


def test_job_whose_cluster_does_not_start_fails(tmp_path: Path, run_script):
    """`ray symmetric-run` ends with exit code 0 if Ray does not start."""
    script = study_script(job(tmp_path, nodes=2), ["bash", "-c", WAITING])
    (tmp_path / "fakes" / "ray").write_text("#!/bin/bash\nexit 0\n")
    assert run_script(script).wait(20) == 4
    assert (tmp_path / "calls").read_text() == ""


def test_sigterm_before_the_study_has_started_sends_the_job_back(tmp_path: Path, run_script):
    script = study_script(job(tmp_path, nodes=2), ["bash", "-c", WAITING])
    (tmp_path / "fakes" / "ray").write_text("#!/bin/bash\necho waiting; exec sleep 20\n")
    srun = 'while [[ $1 == --* ]]; do shift; done; exec "$@"'
    (tmp_path / "fakes" / "srun").write_text(f"#!/bin/bash\n{srun}\n")
    process = run_script(script)
    wait_for("waiting", tmp_path / "log")
    process.terminate()
    assert process.wait(10) == 143
    assert (tmp_path / "calls").read_text() == "scontrol requeue 7\n"


@pytest.mark.parametrize(
    ("restarts", "results", "requeues"),
    [("", "", True), ("0", "", True), ("1", "", False), ("1", "trials/k/epochs.jsonl", True),
     ("1", "trials/k/attempts.jsonl", False), ("2", "cost/host/sgd.json", True)],
)  # fmt: skip
def test_job_whose_second_run_commits_no_epoch_ends(
    restarts: str, results: str, requeues: bool, tmp_path: Path, run_script
):
    lines = "touch started; " + (
        f"mkdir -p {Path(results).parent}; echo {{}} >> {results}; " * bool(results)
    )
    script = study_script(job(tmp_path), ["bash", "-c", f"cd {tmp_path}; {lines} exit 143"])
    (tmp_path / "trials" / "other").mkdir(parents=True)
    (tmp_path / "trials" / "other" / "epochs.jsonl").write_text("{}\n")
    assert run_script(script, SLURM_RESTART_COUNT=restarts).wait(20) == 143
    [line] = (tmp_path / "log").read_text().splitlines()
    assert line.endswith("back to the queue") == requeues
    assert ("this run committed no epoch: the job ends" in line) == (not requeues)
    assert (tmp_path / "calls").read_text() == ("scontrol requeue 7\n" if requeues else "")


def test_jobs_have_different_tokens_and_ports(tmp_path: Path, run_script):
    """The token is random, so that no other user of the node can compute it."""
    show = ["bash", "-c", 'echo "$RAY_AUTH_TOKEN $*"', "show"]
    script = study_script(job(tmp_path, nodes=2), show)
    lines = []
    for number in ("7", "8"):
        assert run_script(script, SLURM_JOB_ID=number).wait(20) == 0
        lines.append((tmp_path / "log").read_text().splitlines()[-1].split())
    (token, *_, address), (other_token, *_, other_address) = lines
    assert len(token) == 64 and token != other_token
    assert address.endswith(":20007") and other_address.endswith(":20008")


# ---------------------------------------------------------------------- the command


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Return a function that runs `python -m studies slurm`, by default on a shared folder.

    It returns the exit code, standard output and standard error.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm, "LOCAL", ())
    monkeypatch.delenv("PRECOND_OUT", raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["studies", "slurm", *arguments])
        return invoke(manage.GROUP), *capsys.readouterr()

    return run


def test_command_writes_a_script_and_submits_nothing(command, tmp_path: Path, fakes: Path):
    code, out, err = command("ablation_rank", "--time", "00:30:00", "--", *SMALL)
    path = tmp_path / "outputs" / "slurm" / "ablation_rank.sbatch"
    assert (code, err) == (0, "")
    assert out == f"{path}\nTo submit: sbatch {path}\n"
    text = path.read_text()
    assert f"#SBATCH --chdir={tmp_path}\n" in text and "--time=00:30:00" in text
    assert f"export PRECOND_OUT={tmp_path}/outputs\n" in text
    assert "studies/ablation_rank.py --seeds 2 --epochs 3 --levels rank=5,10 &\n" in text
    assert fakes.read_text() == "" and os.listdir(tmp_path / "outputs") == ["slurm"]


def test_submitted_array_has_a_report_job_that_depends_on_it(command, tmp_path: Path, fakes: Path):
    options = ("--array", "4", "--time", "00:30:00", "--gpus-per-node", "1", "--submit")
    code, out, err = command("ablation_rank", *options, "--", *SMALL)
    assert (code, err) == (0, "") and "submitted: job 7, 7. To stop: scancel 7 7" in out
    folder = tmp_path / "outputs" / "slurm"
    array, report = folder / "ablation_rank.sbatch", folder / "ablation_rank-report.sbatch"
    assert fakes.read_text() == (
        f"sbatch --parsable {array}\nsbatch --parsable --dependency=afterany:7 {report}\n"
    )
    assert len((folder / "ablation_rank.jsonl").read_text().splitlines()) == 12
    assert "#SBATCH --array=0-3\n" in array.read_text()
    assert f"python -m trainables --out {tmp_path}/outputs --data-dir" in array.read_text()
    assert "--gpus-per-node" in array.read_text() and "gpus" not in report.read_text()
    assert report.read_text().endswith("--levels rank=5,10 --report-only\n")


def test_queue_that_refuses_leaves_no_job_and_no_file(command, tmp_path: Path, fakes: Path):
    refuse = 'if [[ $* == *report* ]]; then echo "sbatch: error: over quota" >&2; exit 1; fi'
    body = f'echo "sbatch" >> "$CALLS"; {refuse}; echo 7'
    (tmp_path / "fakes" / "sbatch").write_text(f"#!/bin/bash\n{body}\n")
    options = ("--array", "4", "--time", "00:30:00", "--submit")
    code, _, err = command("ablation_rank", *options, "--", *SMALL)
    reason = "Slurm refuses the job, and nothing was submitted: sbatch: error: over quota"
    assert (code, err) == (2, f"error: {reason}\n")
    assert fakes.read_text() == "sbatch\nsbatch\nscancel 7\n"
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("ablation_rnk --time 1:00:00", 'study "ablation_rnk": unknown. Did you mean'),
        ("ablation_rank --time 1h", "--time = 1h: must have the form HH:MM:SS or DAYS-HH:MM:SS"),
        ("ablation_rank --time 00:02:59", "--time = 00:02:59: must be at least 180 s, which are"),
        (
            "ablation_rank --time 00:10:00 -- --commit-every 300",
            "--time = 00:10:00: must be at least 720 s, which are",
        ),
        ("ablation_rank --nodes 0 --time 1:00:00", "Invalid value for '--nodes': 0 is not in"),
        (
            "ablation_rank --gpus-per-node 6 --time 1:00:00",
            "--gpus-per-node = 6: must be at most 5, the number of GPUs of the largest node of the",
        ),
        ("ablation_rank --time 1:00:00 -- --epochs 0", "--epochs = 0: must be an integer >= 1"),
        ("ablation_rank --time 1:00:00 -- --epoch 1", "--epoch: unknown option. Did you mean"),
        ("ablation_rank --time 1:00:00 -- --address auto", "--address: not available after --"),
        ("ablation_rank --time 1:00:00 --partition a;b", "--partition = a;b: must be a name"),
        ("tune_optimizers --time 1:00:00 --array 2", "--array: not available for tune_optimizers"),
        ("ablation_rank --time 1:00:00 --array 99", "--array = 99: must be at most 70, the number"),
        ("ablation_rank --time 1:00:00 --array 2 --nodes 2", "--nodes = 2: must be 1 with --array"),
        ("compare_cost --time 1:00:00 --nodes 2", "--nodes = 2: must be 1 for compare_cost, which"),
        ("ablation_rank --time 1:00:00 --script taken", "--script = taken: exists, and this"),
    ],
)
def test_invalid_command_writes_and_submits_nothing(
    arguments: str, message: str, command, tmp_path: Path, fakes: Path
):
    (tmp_path / "taken").write_text("#!/bin/bash\n")
    study, *options = arguments.split()
    code, out, err = command(study, "--submit", *options)
    assert code == 2 and out == "" and err.startswith(f"error: {message}") and err.count("\n") == 1
    assert fakes.read_text() == "" and not (tmp_path / "outputs").exists()


def test_submission_without_slurm_is_refused(command, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = command("ablation_rank", "--time", "1:00:00", "--submit")
    assert code == 2 and err.startswith("error: --submit: sbatch is not installed here;")
    assert not (tmp_path / "outputs").exists()


def test_folder_that_is_not_shared_is_refused_and_unused_gpus_give_a_warning(
    command, tmp_path: Path, fakes: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(slurm, "LOCAL", (tmp_path / "outputs",))
    options = ("--gpus-per-node", "1", "--time", "1:00:00", "--script", "job.sbatch")
    line = f"{tmp_path}/outputs: must be a folder that all nodes share, but each node has another"
    code, _, err = command("ablation_rank", *options)
    assert code == 0 and (tmp_path / "job.sbatch").exists()
    assert err.splitlines() == [
        f"warning: {line} folder there",
        "warning: the trials use no GPU; add --gpus-per-trial auto to the options after --",
    ]
    (tmp_path / "job.sbatch").unlink()
    code, _, err = command("ablation_rank", *options, "--submit")
    assert code == 2 and not (tmp_path / "job.sbatch").exists() and fakes.read_text() == ""
    assert err == f"error: --out = {line} folder there\n"
