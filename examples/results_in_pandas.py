"""Read a study's trials into pandas and draw them: `python examples/results_in_pandas.py`.

Run `python studies/ablation_rank.py --seeds 5` first. The picture is written to `outputs/rank_by_time.png`.
"""

from pathlib import Path

import matplotlib.pyplot as plt

import studies


def main(root: Path = Path("outputs")) -> Path:
    """Print the mean test error and time of each arm, and draw one against the other."""
    results = studies.load("ablation_rank", out=root)
    trials = results.frame()  # a row for each trial; per="epoch": for each epoch
    completed = trials[trials["status"] == "completed"]
    arms = completed.groupby("arm", sort=False)[["test/mse", "time/train_s"]].mean()
    print(arms.to_string(float_format="{:.3f}".format))

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for arm, row in arms.iterrows():
        axes.plot(row["time/train_s"], row["test/mse"], "o", label=arm)
    axes.set(xlabel="training time (s)", ylabel="test mean squared error")
    axes.legend(fontsize="small")
    path = root / "rank_by_time.png"
    figure.savefig(path)
    return path


if __name__ == "__main__":
    print(f"The picture is in {main()}.")
