"""A real Slurm on simulated machines: a login node with the controller, and compute nodes.

The tests require Debian's slurm-wlm and munge in addition to what `machines.py` requires. The
daemons use no cgroups, and end with their machine.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

from machines import NETWORK, ROOT, Machines
from machines import skip_reason as no_machines

CONFIGURATION = f"""
ClusterName=test
SlurmctldHost=launcher({NETWORK}.254)
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
# Without this line, a job that goes back to the queue waits there for two minutes.
AuthInfo=cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
StateSaveLocation=/run/slurmctld
SlurmdSpoolDir=/run/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
EnforcePartLimits=ALL
SlurmdTimeout=15
KillWait=60
"""
MUNGED = (
    "munged --foreground --force --key-file=/run/munge.key --log-file=/run/munge.log "
    "--pid-file=/run/munge.pid --seed-file=/run/munge.seed --socket=/run/munge/munge.socket.2"
)


def skip_reason() -> str:
    """Return the reason why this host cannot run the tests, or "" if it can."""
    absent = [tool for tool in ("slurmctld", "slurmd", "munged") if not shutil.which(tool)]
    if absent:
        return f"requires {', '.join(absent)}: apt-get install slurm-wlm munge"
    return no_machines()


class Slurm(Machines):
    """Machines with Slurm: the login node `launcher`, and the compute nodes `machine1` and so on.

    Args:
        folder: The folder of the test; see `Machines`.
        count: The number of compute nodes; each has two CPUs.
    """

    def __init__(self, folder: Path, count: int):
        super().__init__(folder, count)
        nodes = {f"machine{number}": f"{NETWORK}.{number}" for number in range(1, count + 1)}
        lines = [f"NodeName={name} NodeAddr={nodes[name]} CPUs=2 RealMemory=4000" for name in nodes]
        lines.append("PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP")
        (self.shared / "slurm.conf").write_text(CONFIGURATION + "\n".join(lines) + "\n")
        hosts = {"localhost": "127.0.0.1", "launcher": f"{NETWORK}.254", **nodes}
        text = "".join(f"{address} {name}\n" for name, address in hosts.items())
        (self.shared / "hosts").write_text(text)
        (self.files / "munge.key").write_text("0123456789abcdef" * 8)
        self._nodes = list(nodes)
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Boot all machines, start the daemons, and wait until all nodes are idle."""
        super().start()
        for name in ("launcher", *self._nodes):
            self._start_daemons(name)
        self.wait_for("sinfo --noheader --Node --format %T", "idle\n" * len(self._nodes), 60)

    def _start_daemons(self, name: str) -> None:
        setup = (
            "mount --bind /mnt/hosts /etc/hosts && mkdir /run/munge /run/slurmd /run/slurmctld && "
            "cp /run/machine/munge.key /run/munge.key && chmod 400 /run/munge.key"
        )
        self.run(name, setup)
        log = self.folder / f"{name}-munged.log"
        self._daemons.append(self.begin(name, MUNGED, log))
        deadline = time.monotonic() + 10
        while self.run(name, "munge --no-input", check=False).returncode != 0:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        daemon = "slurmctld" if name == "launcher" else "slurmd"
        command, log = f"{self.environment} {daemon} -D", self.folder / f"{name}-slurm.log"
        self._daemons.append(self.begin(name, command, log))

    def restart(self, name: str) -> None:
        """Boot a machine that was killed, and start its daemons."""
        self.boot(name)
        deadline = time.monotonic() + 30
        while not (self.shared / f".{name}").exists():
            assert time.monotonic() < deadline, (self.folder / f"{name}.log").read_text()
            time.sleep(0.1)
        self._start_daemons(name)

    def end(self) -> None:
        """Power off all machines, which ends the daemons."""
        super().end()
        for daemon in self._daemons:
            daemon.wait()

    @property
    def environment(self) -> str:
        """The variables of a shell command."""
        variables = "SLURM_CONF=/mnt/slurm.conf", f"PYTHONPATH={ROOT}"
        return f"export {' '.join(variables)} RAY_raylet_start_wait_time_s=180;"

    def login(self, command: str, check: bool = True) -> str:
        """Run a shell command on the login node, in the folder of the project; return its output."""
        words = f"{self.environment} cd {ROOT} && {command}"
        return self.run("launcher", words, check=check).stdout

    def submit(self, arguments: str) -> list[str]:
        """Run `python -m studies slurm` with `--submit`; return the numbers of the jobs."""
        output = self.login(f"python -m studies slurm {arguments}")
        match = re.search(r"submitted: job ([\d, ]+)\.", output)
        assert match, output
        return match[1].split(", ")

    def state(self, job: str) -> str:
        """Return the state of a job and the number of its restarts, such as `RUNNING 0`."""
        text = self.login(f"scontrol show job {job}")
        state, restarts = (re.search(rf"{name}=(\w+)", text) for name in ("JobState", "Restarts"))
        assert state and restarts, text
        return f"{state[1]} {restarts[1]}"

    def wait_for(self, command: str, output: str, seconds: float) -> None:
        """Wait until a command on the login node has this output."""
        deadline = time.monotonic() + seconds
        while (current := self.login(command, check=False)) != output:
            assert time.monotonic() < deadline, f"{command}: {current}\n{self.logs()}"
            time.sleep(0.5)

    def wait_for_state(self, job: str, state: str, seconds: float = 400) -> None:
        """Wait until a job has this state and number of restarts."""
        deadline = time.monotonic() + seconds
        while (current := self.state(job)) != state:
            assert time.monotonic() < deadline, f"job {job}: {current}\n{self.logs()}"
            time.sleep(0.5)

    def logs(self) -> str:
        """Return the last lines of each log of a job."""
        logs = sorted(self.shared.glob("*/slurm/*.log"))
        return "\n".join(f"{log.name}: {log.read_text()[-2000:]}" for log in logs)
