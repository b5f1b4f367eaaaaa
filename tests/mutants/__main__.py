"""Plant each mutant in a copy of the repository and run its test there: `python -m tests.mutants [WORD ...]`.

The exit code is 1 when a mutant survives or cannot be planted, or when a named test fails without a mutant. This takes
minutes; `tests/test_mutants.py` checks in about a second that every mutant can be planted.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants.catalogue import Mutant, MutantError, Planted, Sources, load

ROOT = Path(__file__).resolve().parents[2]
AT_A_TIME = 2
TIMEOUT = 300  # seconds
# The copy's package must be tested: with an installed one, every mutant would survive.
RUN = """
import sys, precond, pytest
assert precond.__file__.startswith(sys.argv[1]), precond.__file__
sys.exit(pytest.main(sys.argv[2:]))
"""


def snapshot() -> dict[str, bytes]:
    """Return the files that git tracks or would track, read once, so that a later edit does not change a run."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return {name: (ROOT / name).read_bytes() for name in names if (ROOT / name).is_file()}


def run_tests(files: dict[str, bytes], nodes: list[str]) -> tuple[str, float, str]:
    """Run tests in a new copy of the files. Return `passed`, `failed`, `broken` or `timed out`, seconds and output."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        start = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, "-c", RUN, folder, "-x", "--tb=line", "-p", "no:cacheprovider", *nodes],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT * (1 if len(nodes) == 1 else 5),
            )
        except subprocess.TimeoutExpired:
            return "timed out", time.monotonic() - start, ""
    output = done.stdout + done.stderr
    verdict = (
        "passed" if done.returncode == 0 else "failed" if done.returncode == 1 and " failed" in output else "broken"
    )
    return verdict, time.monotonic() - start, output


def plant(mutants: list[Mutant], files: dict[str, bytes]) -> list[Planted]:
    """Return the mutants that fit the sources; print the others."""
    sources, planted = Sources({name: text.decode() for name, text in files.items() if name.endswith(".py")}), []
    for mutant in mutants:
        try:
            planted.append(sources.plant(mutant))
        except MutantError as error:
            print(f"NOT APPLIED          {mutant}\n    {error}")
    return planted


def main(words: list[str]) -> int:
    """Run the mutants that contain every word, and return the exit code."""
    start, files = time.monotonic(), snapshot()
    mutants = [mutant for mutant in load() if all(word in f"{mutant} {mutant.test}" for word in words)]
    planted = plant(mutants, files)
    if not planted:
        print(f"no mutant to run: {len(mutants)} contain {' '.join(words) or 'anything'}", file=sys.stderr)
        return 2
    verdict, seconds, output = run_tests(files, list(dict.fromkeys(item.node for item in planted)))
    print(f"{verdict:11} {seconds:5.1f} s  the named tests without a mutant", flush=True)
    if verdict != "passed":
        print(output[-4000:])
        return 1

    def judge(item: Planted) -> tuple[str, float, str]:
        return run_tests({**files, item.file: item.source.encode()}, [item.node])

    killed = 0
    with ThreadPoolExecutor(AT_A_TIME) as pool:
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
