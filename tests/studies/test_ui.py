"""The MLflow pages that `make ui` links to, in a headless browser: they show a smoke run's numbers.

`make setup-ui` installs the browser.
"""

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
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT_MS = 60_000


class Served(NamedTuple):
    """The output folder of a smoke run, and the links that the command has printed."""

    root: Path
    links: list[str]

    @property
    def arms(self) -> pd.DataFrame:
        return pd.read_csv(self.root / "reports/ablation_rank/digits-cnn/arms.csv")


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    out, port = tmp_path_factory.mktemp("out"), free_port()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    trials = out / "trials.jsonl"
    smoke = [sys.executable, ROOT / "studies/ablation_rank.py", "--smoke", "--out", out]
    # `python -m trainables` writes the same trial folders without Ray.
    training = [sys.executable, "-m", "trainables", trials, "--out", out / "smoke"]
    for command in ([*smoke, "--dry-run", "--json"], training, [*smoke, "--report-only"]):
        process = subprocess.run(
            command, check=True, env=environment, timeout=300, stdout=subprocess.PIPE, text=True
        )
        if not trials.exists():
            trials.write_text(process.stdout)
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
            str(profile),
            executable_path=CHROMIUM,
            headless=True,
            args=CHROMIUM_FLAGS,
            viewport=size,
        )
        context.set_default_timeout(TIMEOUT_MS)
        yield context.new_page()
        context.close()


def save_screenshot(page: Any, name: str) -> None:
    """Save a screenshot if the environment names a folder for it."""
    if folder := os.environ.get("PRECOND_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def test_page_of_the_parent_run_has_the_claim_and_the_mean_of_each_arm(served: Served, page: Any):
    page.goto(served.links[0])
    page.get_by_text(
        "With either sketch (columns or Gaussian), NysAct is more accurate than SGD"
    ).first.wait_for()
    page.get_by_text("mean/sgd", exact=True).first.wait_for()
    save_screenshot(page, "parent")
    text = page.inner_text("body")
    for arm in served.arms.to_dict("records"):
        metric = re.escape(re.sub("[ =]", ".", arm["arm"]))
        match = re.search(rf"mean/{metric}\s+([\d.]+)", text)
        assert match and float(match[1]) == pytest.approx(arm["mean"], abs=1e-9), arm["arm"]


def test_charts_show_factor_and_mean_of_each_configuration(served: Served, page: Any):
    page.goto(served.links[1])
    page.get_by_text("Parallel Coordinates").first.wait_for()
    page.get_by_text("6 matching runs").first.wait_for()
    plot = page.locator("svg").filter(has_text="optimizer").filter(has_text="rank").first
    plot.wait_for()
    save_screenshot(page, "charts")
    for arm in served.arms["arm"]:
        assert page.get_by_text(arm, exact=True).count() >= 1, arm
    best = served.arms.loc[served.arms["optimizer"].str.startswith("nysact"), "mean"]
    texts = plot.locator("text").all_text_contents()
    labels = [float(text) for text in texts if re.fullmatch(r"0\.\d{2,}", text)]
    # The labels of the axis are in the range of the arms' means.
    assert labels and min(labels) >= best.min() - 0.01 and max(labels) <= best.max() + 0.01


def test_comparison_table_has_every_configuration_with_its_mean(served: Served, page: Any):
    # The page contains only the columns that fit into the window.
    page.set_viewport_size({"width": 2600, "height": 1200})
    page.goto(served.links[2])
    page.get_by_text("Comparing 6 Runs from 1 Experiment").wait_for()
    page.get_by_text("mean/test/accuracy").first.wait_for()
    save_screenshot(page, "compare")
    text = page.inner_text("body")
    for arm in served.arms.to_dict("records"):
        assert arm["arm"] in text
        assert f"\n{round(arm['mean'], 3)}\n" in text, arm["arm"]


@pytest.mark.parametrize("name", ["rank.png", "report.html"])
def test_figure_and_report_open_in_the_browser(served: Served, page: Any, name: str):
    page.goto("about:blank")  # otherwise the UI keeps the previous artifact
    page.set_viewport_size({"width": 1600, "height": 1200})
    page.goto(f"/artifacts/{name}?".join(served.links[0].split("?")))
    if name.endswith("png"):
        images = "img[src^='blob:'], img[src*='get-artifact'], img[alt*='rank']"
        picture = page.locator(images).first
        picture.wait_for()
        page.wait_for_function("image => image.naturalWidth > 400", arg=picture.element_handle())
        save_screenshot(page, "figure")
        return
    frame = page.frame_locator("iframe").first
    frame.get_by_role("heading", name="Effect of the rank of the Nystrom approximation").wait_for()
    save_screenshot(page, "report")
    text = frame.locator("table").first.inner_text()
    for arm in served.arms.to_dict("records"):
        row = rf"{re.escape(arm['arm'])}\s+{arm['n']}\s+{100 * arm['mean']:.2f}"
        assert re.search(row, text), arm["arm"]
