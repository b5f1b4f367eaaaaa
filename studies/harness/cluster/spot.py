"""On a spot machine: `python -m studies.harness.cluster.spot` ends its trials in time when the cloud takes it back.

AWS says so two minutes ahead, in the machine's own metadata, and nothing in Ray listens there. This does: the node is
drained, so that Ray places nothing on it any more, and each trial gets a SIGTERM, upon which it commits and ends; Tune
then goes on with it elsewhere. A rebalance recommendation is no notice: the machine may stay for hours.
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
DRAIN_SECONDS = 30.0  # at most, of the two minutes


def noticed(metadata: str = METADATA) -> bool:
    """Whether this machine is to be taken back. A metadata service that does not answer has said nothing."""
    try:
        lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        session = _ask("PUT", f"{metadata}/api/token", lifetime)
        _ask("GET", f"{metadata}/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": session})
    except OSError:  # 404 as long as there is no notice
        return False
    return True


def leave() -> int:
    """Drain this machine's nodes and end what runs on them; returns how many processes were told to."""
    nodes = [process for process in psutil.process_iter(["name"]) if process.info["name"] == "raylet"]
    running = [child for node in nodes for child in node.children() if _busy(child)]
    for process in running:  # first of all: two minutes are not long
        os.kill(process.pid, signal.SIGTERM)
    for node in nodes:
        _drain(node)
    return len(running)


def main(metadata: str = METADATA) -> None:
    """Wait for the notice, act on it, and end."""
    while not noticed(metadata):
        time.sleep(POLL_SECONDS)
    print(f"this machine is taken back: {leave()} processes told to end", flush=True)


def _ask(method: str, url: str, headers: dict[str, str]) -> str:
    request = urllib.request.Request(url, method=method, headers=headers)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy knows this machine's address
    with direct.open(request, timeout=2) as answer:
        return answer.read().decode()


def _busy(process: psutil.Process) -> bool:
    """Whether a process of Ray's runs a task or an actor: its title then says which."""
    try:
        title = " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return False
    return title.startswith("ray::") and not title.startswith("ray::IDLE") and not title.endswith("Agent")


def _drain(node: psutil.Process) -> None:
    flags = {flag: value for flag, _, value in (word.partition("=") for word in node.cmdline())}
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", flags["--gcs-address"]]
    command += ["--node-id", flags["--node_id"], "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "spot notice", "--deadline-remaining-seconds", str(NOTICE_SECONDS)]
    try:
        subprocess.run(command, timeout=DRAIN_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        print("the node could not be drained: Ray may place a trial here once more", flush=True)


if __name__ == "__main__":
    main()
