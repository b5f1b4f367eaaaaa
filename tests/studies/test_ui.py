"""The pages that `make ui` links to, in a headless browser: they show a smoke run's own numbers. `make setup-ui`."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

playwright = pytest.importorskip(
    "playwright.sync_api", reason="the extra `ui` is not installed: make setup-ui"
)
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("Debian's chromium is not installed: make setup-ui", allow_module_level=True)

ROOT = Path(__file__).parents[2]
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE_MS = 60_000


class Served(NamedTuple):
    """A smoke run's output folder, and the links that the command printed."""

    root: Path
    links: list[str]

    @property
    def arms(self) -> pd.DataFrame:
        return pd.read_csv(self.root / "reports/ablation_rank/digits-cnn/arms.csv")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    out, port = tmp_path_factory.mktemp("out"), free_port()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    smoke, trials = (
        [sys.executable, ROOT / "studies/ablation_rank.py", "--smoke", "--out", out],
        out / "trials.jsonl",
    )
    training = [
        sys.executable,
        "-m",
        "trainables",
        trials,
        "--out",
        out / "smoke",
    ]  # the same folders, without Ray
    for command in ([*smoke, "--dry-run", "--json"], training, [*smoke, "--report-only"]):
        done = subprocess.run(
            command, check=True, env=environment, timeout=300, stdout=subprocess.PIPE, text=True
        )
        if not trials.exists():
            trials.write_text(done.stdout)
    command = [sys.executable, "-m", "studies", "ui", "--out", out / "smoke", "--port", str(port)]
    with open(out / "server.log", "wb") as log:
        server = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        assert server.stdout is not None
        lines = [server.stdout.readline() for _ in range(6)]
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        yield Served(out / "smoke", [line.strip() for line in lines[1::2]])
    finally:
        server.terminate()
        server.communicate(timeout=30)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with playwright.sync_playwright() as play:
        profile = tmp_path_factory.mktemp("profile")
        size = {"width": 1600, "height": 1200}
        context = play.chromium.launch_persistent_context(
            str(profile), executable_path=CHROMIUM, headless=True, args=FLAGS, viewport=size
        )
        context.set_default_timeout(PATIENCE_MS)
        yield context.new_page()
        context.close()


def shoot(page: Any, name: str) -> None:
    """A picture for people, where they ask for it."""
    if folder := os.environ.get("PRECOND_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def test_the_parents_page_has_the_claim_and_each_arms_mean(served: Served, page: Any):
    page.goto(served.links[0])
    page.get_by_text("With either sketch NysAct beats SGD").first.wait_for()
    page.get_by_text("mean/sgd", exact=True).first.wait_for()
    shoot(page, "parent")
    shown = page.inner_text("body")
    for arm in served.arms.to_dict("records"):
        found = re.search(rf"mean/{re.escape(re.sub('[ =]', '.', arm['arm']))}\s+([\d.]+)", shown)
        assert found and float(found[1]) == pytest.approx(arm["mean"], abs=1e-9), arm["arm"]


def test_the_charts_are_of_the_configurations_with_the_factor_and_the_mean_in_parallel(
    served: Served, page: Any
):
    page.goto(served.links[1])
    page.get_by_text("Parallel Coordinates").first.wait_for()
    page.get_by_text("6 matching runs").first.wait_for()
    plot = page.locator("svg").filter(has_text="optimizer").filter(has_text="rank").first
    plot.wait_for()
    shoot(page, "charts")
    for arm in served.arms["arm"]:
        assert page.get_by_text(arm, exact=True).count() >= 1, arm
    best = served.arms.loc[served.arms["optimizer"].str.startswith("nysact"), "mean"]
    texts = plot.locator("text").all_text_contents()
    labels = [float(text) for text in texts if re.fullmatch(r"0\.\d{2,}", text)]
    # The axis spans the arms' means.
    assert labels and min(labels) >= best.min() - 0.01 and max(labels) <= best.max() + 0.01


def test_side_by_side_has_every_configuration_with_its_mean(served: Served, page: Any):
    page.set_viewport_size(
        {"width": 2600, "height": 1200}
    )  # columns out of sight are not in the page
    page.goto(served.links[2])
    page.get_by_text("Comparing 6 Runs from 1 Experiment").wait_for()
    page.get_by_text("mean/test/accuracy").first.wait_for()
    shoot(page, "compare")
    shown = page.inner_text("body")
    for arm in served.arms.to_dict("records"):
        assert arm["arm"] in shown
        assert f"\n{round(arm['mean'], 3)}\n" in shown, arm["arm"]


@pytest.mark.parametrize("name", ["rank.png", "report.html"])
def test_figure_and_report_open_in_the_browser(served: Served, page: Any, name: str):
    page.goto("about:blank")  # from an artifact's page to another's the UI keeps what it shows
    page.set_viewport_size({"width": 1600, "height": 1200})
    page.goto(f"/artifacts/{name}?".join(served.links[0].split("?")))
    if name.endswith("png"):
        picture = page.locator(
            "img[src^='blob:'], img[src*='get-artifact'], img[alt*='rank']"
        ).first
        picture.wait_for()
        page.wait_for_function("image => image.naturalWidth > 400", arg=picture.element_handle())
        shoot(page, "figure")
        return
    frame = page.frame_locator("iframe").first
    frame.get_by_role("heading", name="Effect of the rank of the Nystrom approximation").wait_for()
    shoot(page, "report")
    shown = frame.locator("table").first.inner_text()
    for arm in served.arms.to_dict("records"):
        assert re.search(
            rf"{re.escape(arm['arm'])}\s+{arm['n']}\s+{100 * arm['mean']:.2f}", shown
        ), arm["arm"]
