"""Watch for the interruption notice of a spot machine: `python -m studies.harness.cluster.spot`.

AWS announces an interruption in the machine's metadata two minutes before, and Ray does not read
the notice. On a notice, this program sends SIGTERM to the trials, which write a checkpoint and end,
and drains the node, so that Ray schedules nothing on it. Tune resumes the trials on other nodes.
Rebalance recommendations are ignored, because a machine may run for hours after them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request

import psutil

from precond.counts import counted

METADATA = "http://169.254.169.254/latest"
POLL_SECONDS = 5.0
NOTICE_SECONDS = 120
DRAIN_SECONDS = 30.0  # time limit of the drain command


def has_notice(metadata: str = METADATA) -> bool:
    """Return True if AWS announces an interruption; False if the service does not answer."""
    try:
        lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        session = _request("PUT", f"{metadata}/api/token", lifetime)
        header = {"X-aws-ec2-metadata-token": session}
        _request("GET", f"{metadata}/meta-data/spot/instance-action", header)
    except OSError:  # the service answers 404 while there is no notice
        return False
    return True


def leave() -> int:
    """Send SIGTERM to the busy workers of this machine, and drain its Ray nodes.

    Returns:
        The number of workers.
    """
    processes = psutil.process_iter(["name"])
    nodes = [process for process in processes if process.info["name"] == "raylet"]
    workers = [child for node in nodes for child in node.children() if _is_busy(child)]
    for process in workers:  # before the drain, which may take a quarter of the two minutes
        os.kill(process.pid, signal.SIGTERM)
    for node in nodes:
        _drain(node)
    return len(workers)


def main(metadata: str = METADATA) -> None:
    """Wait for the notice, and leave the cluster."""
    while not has_notice(metadata):
        time.sleep(POLL_SECONDS)
    processes = counted(leave(), "process", "processes")
    print(f"interruption notice: sent SIGTERM to {processes}", flush=True)


def _request(method: str, url: str, headers: dict[str, str]) -> str:
    request = urllib.request.Request(url, method=method, headers=headers)
    # Use no proxy, because a proxy cannot reach this address.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=2) as answer:
        return answer.read().decode()


def _is_busy(process: psutil.Process) -> bool:
    """Return True if a Ray process runs a task or an actor, according to its title."""
    try:
        title = " ".join(process.cmdline())
    except psutil.Error:  # the process has just ended
        return False
    idle = title.startswith("ray::IDLE") or title.endswith("Agent")
    return title.startswith("ray::") and not idle


def _drain(node: psutil.Process) -> None:
    flags = {flag: value for flag, _, value in (word.partition("=") for word in node.cmdline())}
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node"]
    command += ["--address", flags["--gcs-address"], "--node-id", flags["--node_id"]]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot notice"]
    command += ["--deadline-remaining-seconds", str(NOTICE_SECONDS)]
    try:
        subprocess.run(command, timeout=DRAIN_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        print("the node could not be drained; Ray may start another trial on it", flush=True)


if __name__ == "__main__":
    main()
