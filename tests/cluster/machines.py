"""Simulated machines for tests of clusters. Each is a set of Linux namespaces on this host.

The machines connect to each other over SSH. Each has its own processes, addresses, home folder,
/tmp and shared memory. All machines share a network, a folder at /mnt, and the Python environment
of the host. The sources are in the repository, which all machines see; `ray up` copies them from
the launcher to the other machines. The tests require root, iproute2, openssh-server and rsync;
`skip_reason()` returns which of them is missing. A machine ends when its first process ends, and
no files or processes of it remain.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

NETWORK = "10.77.0"
NAMESPACES = ["--net", "--mount", "--pid", "--uts", "--ipc"]
ROOT, VENV = Path(__file__).parents[2], Path(sys.prefix)
SSHD = """
Port 22
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
Subsystem sftp internal-sftp
"""
# The first process of a machine. Its mounts are visible only in its namespace. /tmp is replaced
# last, because the test's folder is below /tmp. Python may be below /root, so it is saved
# before /root is replaced.
BOOT = """
set -e
mount --make-rprivate /
mount --bind {folder}/shared /mnt
mkdir -p {folder}/python && mount --bind {python} {folder}/python
mount -t tmpfs none /root && chmod 700 /root
mkdir -p {python} && mount --bind {folder}/python {python}
mount -t tmpfs none /run && mkdir /run/sshd
mount -t tmpfs none /dev/shm
mkdir -p /root/.ssh /root/checkout/.venv /root/.ray
echo "export PYTHONFAULTHANDLER=1; trap 'echo exit code \\$?' EXIT" > /root/.bashrc
cp {folder}/key /root/.ssh/id_ed25519 && chmod 600 /root/.ssh/id_ed25519
cp {folder}/token /root/.ray/auth_token
mkdir /run/machine && cp {folder}/host_key {folder}/key.pub /run/machine && chmod 600 /run/machine/host_key
sed 's#{folder}#/run/machine#' {folder}/sshd_config > /run/machine/sshd_config
for part in bin lib pyvenv.cfg; do ln -s {venv}/$part /root/checkout/.venv/$part; done
touch -d 2099-01-01 /root/checkout/.venv/.ready
hostname {name}
cp -r {folder}/files/. /run/machine
mount -t tmpfs none /tmp && chmod 1777 /tmp
echo ready > /mnt/.{name}
exec /usr/sbin/sshd -D -e -f /run/machine/sshd_config
"""


def skip_reason() -> str:
    """Return the reason why this host cannot run the tests, or "" if it can."""
    if os.geteuid() != 0:
        return "requires root"
    if any(str(path.resolve()).startswith(("/tmp/", "/root/")) for path in (ROOT, VENV)):
        return "requires the project outside of /tmp and /root, which differ on every machine"
    required = ("unshare", "nsenter", "ip", "/usr/sbin/sshd", "rsync", "ssh")
    absent = [tool for tool in required if not shutil.which(tool)]
    if absent:
        return f"requires {', '.join(absent)}: apt-get install openssh-server rsync iproute2"
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "true"]
    process = subprocess.run(command, capture_output=True, check=False)
    return "" if process.returncode == 0 else "this host does not allow namespaces"


class Machines:
    """A network of simulated machines. The user works on the first machine, `launcher`.

    Args:
        folder: The folder of the test. All machines see its folder `shared` at /mnt, and each has a
            copy of its folder `files` at /run/machine.
        count: The number of machines in addition to the launcher: `machine1` with the address
            10.77.0.1, and so on.
    """

    def __init__(self, folder: Path, count: int):
        self.folder, self.shared, self.files = folder, folder / "shared", folder / "files"
        self.shared.mkdir(parents=True)
        self.files.mkdir()
        for name in ("key", "host_key"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True
            )
        (folder / "token").write_text("0123456789abcdef" * 4)
        (folder / "sshd_config").write_text(SSHD.format(folder=folder))
        switch = ["unshare", "--net", "--fork", "--kill-child", "sleep", "infinity"]
        self._parents: dict[str, subprocess.Popen[bytes]] = {"switch": subprocess.Popen(switch)}
        self._names = ["launcher", *(f"machine{number}" for number in range(1, count + 1))]

    def start(self) -> None:
        """Boot all machines and connect them."""
        switch = self._wait_for_first_process("switch")
        _run_in_network_of(switch, "ip link add bridge type bridge && ip link set bridge up")
        for name in self._names:
            self.boot(name)
        deadline = time.monotonic() + 30
        while not all((self.shared / f".{name}").exists() for name in self._names):
            logs = [self.folder / f"{name}.log" for name in self._names]
            assert time.monotonic() < deadline, [log.read_text() for log in logs]
            time.sleep(0.1)

    def boot(self, name: str) -> None:
        """Start a machine that is off, and connect it, without waiting until it is ready."""
        (self.shared / f".{name}").unlink(missing_ok=True)
        boot = BOOT.format(folder=self.folder, python=sys.base_prefix, venv=VENV, name=name)
        command = ["unshare", *NAMESPACES, "--fork", "--mount-proc", "--kill-child"]
        with open(self.folder / f"{name}.log", "wb") as log:
            self._parents[name] = subprocess.Popen(
                [*command, "sh", "-c", boot], stdout=log, stderr=log
            )
        self._connect(name, f"{NETWORK}.{self._names.index(name) or 254}")

    def _connect(self, name: str, address: str) -> None:
        switch = self._wait_for_first_process("switch")
        pid, cable = self._wait_for_first_process(name), f"v-{name[-8:]}"
        subprocess.run(["ip", "link", "add", cable, "netns", str(switch), "type", "veth",
                        "peer", "name", "eth0", "netns", str(pid)], check=True)  # fmt: skip
        _run_in_network_of(switch, f"ip link set {cable} master bridge up")
        _run_in_network_of(pid, f"ip address add {address}/24 dev eth0")
        _run_in_network_of(pid, "ip link set eth0 up && ip link set lo up")
        # Ray determines its address from the default route.
        _run_in_network_of(pid, "ip route add default dev eth0")

    def _wait_for_first_process(self, name: str) -> int:
        """Wait until a machine's first process has started, and return its id on the host."""
        deadline = time.monotonic() + 10
        while not (pid := self._first_process(name)):
            assert time.monotonic() < deadline, f"{name} did not start"
            time.sleep(0.05)
        return pid

    def _first_process(self, name: str) -> int:
        """Return the id on the host of a machine's first process, or 0 if it has not started."""
        command = ["pgrep", "-P", str(self._parents[name].pid)]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        return int(process.stdout.split()[0]) if process.stdout else 0

    def run(
        self, name: str, command: str, timeout: float = 300, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command on a machine."""
        words = self._command(name, command)
        process = subprocess.run(
            words, capture_output=True, text=True, timeout=timeout, check=False
        )
        output = f"{command}: {process.returncode}\n{process.stdout}\n{process.stderr}"
        assert not check or process.returncode == 0, output
        return process

    def begin(self, name: str, command: str, log: Path) -> subprocess.Popen[bytes]:
        """Start a shell command on a machine, without waiting for its end."""
        with open(log, "wb") as file:
            return subprocess.Popen(self._command(name, command), stdout=file, stderr=file)

    def _command(self, name: str, command: str) -> list[str]:
        enter = ["nsenter", "-t", str(self._first_process(name)), *NAMESPACES]
        path = f"PATH={VENV}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        variables = ["HOME=/root", path, "NO_COLOR=1", "RAY_USAGE_STATS_ENABLED=0"]
        return [*enter, "env", "-i", *variables, "sh", "-c", command]

    def kill(self, name: str) -> None:
        """Power off a machine by killing its first process."""
        os.kill(self._first_process(name), signal.SIGKILL)
        self._parents[name].wait()

    def end(self) -> None:
        """Power off all machines."""
        for process in self._parents.values():
            process.kill()  # --kill-child also ends the machine's first process
            process.wait()


def _run_in_network_of(pid: int, command: str) -> None:
    subprocess.run(["nsenter", "-t", str(pid), "--net", "sh", "-c", command], check=True)
