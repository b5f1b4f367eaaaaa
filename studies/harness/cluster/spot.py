"""Watch for the interruption notice of a spot machine: `python -m studies.harness.cluster.spot`.

AWS announces an interruption two minutes ahead in the machine's metadata, and nothing in Ray reads it. On a notice this
program drains the node, so that Ray schedules nothing more on it, and sends SIGTERM to the trials, which commit and
end; Tune resumes them on other nodes. It ignores rebalance recommendations, after which a machine may run for hours.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request

import psutil

METADATA = "http://169.254.169.254/latest"
POLL_SECONDS = 5.0
NOTICE_SECONDS = 120
DRAIN_SECONDS = 30.0  # The time limit of the drain command, within the two minutes.


def has_notice(metadata: str = METADATA) -> bool:
    """Return True if this machine will be interrupted; False if not, or if the metadata service does not answer."""
    try:
        lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        session = _request("PUT", f"{metadata}/api/token", lifetime)
        _request(
            "GET",
            f"{metadata}/meta-data/spot/instance-action",
            {"X-aws-ec2-metadata-token": session},
        )
    except OSError:  # The service answers 404 while there is no notice.
        return False
    return True


def leave() -> int:
    """Drain the Ray nodes of this machine and end their workers. Return the number of workers."""
    nodes = [
        process for process in psutil.process_iter(["name"]) if process.info["name"] == "raylet"
    ]
    workers = [child for node in nodes for child in node.children() if _is_busy(child)]
    for process in workers:  # Before the drain, which may take a quarter of the two minutes.
        os.kill(process.pid, signal.SIGTERM)
    for node in nodes:
        _drain(node)
    return len(workers)


def main(metadata: str = METADATA) -> None:
    """Wait for the notice, leave the cluster and return."""
    while not has_notice(metadata):
        time.sleep(POLL_SECONDS)
    print(f"interruption notice: sent SIGTERM to {leave()} processes", flush=True)


def _request(method: str, url: str, headers: dict[str, str]) -> str:
    request = urllib.request.Request(url, method=method, headers=headers)
    direct = urllib.request.build_opener(
        urllib.request.ProxyHandler({})
    )  # A proxy cannot reach this address.
    with direct.open(request, timeout=2) as answer:
        return answer.read().decode()


def _is_busy(process: psutil.Process) -> bool:
    """Return True if a Ray process runs a task or an actor, which Ray writes into its title."""
    try:
        title = " ".join(process.cmdline())
    except psutil.Error:  # The process has just ended.
        return False
    return (
        title.startswith("ray::")
        and not title.startswith("ray::IDLE")
        and not title.endswith("Agent")
    )


def _drain(node: psutil.Process) -> None:
    flags = {flag: value for flag, _, value in (word.partition("=") for word in node.cmdline())}
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "drain-node",
        "--address",
        flags["--gcs-address"],
    ]
    command += ["--node-id", flags["--node_id"], "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += [
        "--reason-message",
        "spot notice",
        "--deadline-remaining-seconds",
        str(NOTICE_SECONDS),
    ]
    try:
        subprocess.run(command, timeout=DRAIN_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        print("the node could not be drained: Ray may start another trial on it", flush=True)


if __name__ == "__main__":
    main()
