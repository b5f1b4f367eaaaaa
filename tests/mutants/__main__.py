"""Run each mutant's test in a copy with the bug: `python -m tests.mutants [WORD ...]`.

The exit code is 1 if a mutant survives or cannot be planted, or if a test fails without a mutant,
and 2 if no mutant contains the words. The command takes minutes; `tests/test_mutants.py` checks in
about a second that every mutant can be planted.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants.catalogue import SUFFIXES, Mutant, MutantError, Planted, Sources, load

ROOT = Path(__file__).resolve().parents[2]
PARALLEL_RUNS = 2
TIMEOUT = 300  # seconds
ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
OPTIONS = ["-x", "--tb=line", "-p", "no:cacheprovider"]
# If the tests imported an installed precond instead of the copy, every mutant would survive.
RUN = """
import sys, precond, pytest
assert precond.__file__.startswith(sys.argv[1]), precond.__file__
sys.exit(pytest.main(sys.argv[2:]))
"""


def snapshot() -> dict[str, bytes]:
    """Return the files that git tracks or would track.

    The files are read once, so that edits during a run have no effect.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    paths = [name for name in output.split("\0") if (ROOT / name).is_file()]
    return {path: (ROOT / path).read_bytes() for path in paths}


def run_tests(files: dict[str, bytes], nodes: list[str]) -> tuple[str, float, str]:
    """Run tests in a new copy of the files.

    Returns:
        `passed`, `failed`, `broken` or `timed out`; the seconds; the output of pytest.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": folder}
        start = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, "-c", RUN, folder, *OPTIONS, *nodes],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT * (1 if len(nodes) == 1 else 5),
            )
        except subprocess.TimeoutExpired:
            return "timed out", time.monotonic() - start, ""
    output = done.stdout + done.stderr
    failed = "failed" if done.returncode == 1 and " failed" in output else "broken"
    verdict = "passed" if done.returncode == 0 else failed
    return verdict, time.monotonic() - start, output


def plant(mutants: list[Mutant], files: dict[str, bytes]) -> list[Planted]:
    """Return the mutants that fit the sources; print an error for each of the others."""
    sources = Sources(
        {path: text.decode() for path, text in files.items() if path.endswith(SUFFIXES)}
    )
    planted = []
    for mutant in mutants:
        try:
            planted.append(sources.plant(mutant))
        except MutantError as error:
            print(f"NOT APPLIED          {mutant}\n    {error}")
    return planted


def main(words: list[str]) -> int:
    """Run the mutants that contain every word, and return the exit code."""
    start, files = time.monotonic(), snapshot()
    mutants = [m for m in load() if all(word in f"{m} {m.test}" for word in words)]
    if not mutants:
        print(f"No mutant contains {' and '.join(words)}.", file=sys.stderr)
        return 2
    planted = plant(mutants, files)
    if not planted:
        return 1
    verdict, seconds, output = run_tests(files, list(dict.fromkeys(item.node for item in planted)))
    print(f"{verdict:11} {seconds:5.1f} s  all of these tests without a mutant", flush=True)
    if verdict != "passed":
        print(output[-4000:])
        return 1

    def judge(item: Planted) -> tuple[str, float, str]:
        return run_tests({**files, item.file: item.source.encode()}, [item.node])

    killed = 0
    with ThreadPoolExecutor(PARALLEL_RUNS) as pool:
        for item, (verdict, seconds, output) in zip(planted, pool.map(judge, planted), strict=True):
            killed += verdict == "failed"
            label = {"failed": "killed", "passed": "SURVIVED"}.get(verdict, verdict.upper())
            print(f"{label:11} {seconds:5.1f} s  {item.mutant}", flush=True)
            if verdict != "failed":
                print(f"    {item.file}, {item.node}\n{output[-2000:]}")
    print(f"{killed} of {len(mutants)} killed in {time.monotonic() - start:.0f} s")
    return int(killed < len(mutants))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
