"""Machines without a cloud: each a set of namespaces of this one, on a network of their own, reached over SSH.

A machine has its own processes, addresses, home, /tmp and shared memory, and sees one folder that all of them see, at
/mnt. The environment is this one's; the sources are what the launcher copies. Needs root, iproute2, openssh-server and
rsync (`missing()` says what lacks), and leaves nothing behind: a machine ends with its first process.
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
# The first process of a machine. What it mounts is seen by its own namespace alone; the order matters, since the
# folder of this test is below the /tmp that is hidden last, and this Python may be below the home.
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


def missing() -> str:
    """Why there can be no such machines here; empty when there can."""
    if os.geteuid() != 0:
        return "needs root"
    if any(str(path.resolve()).startswith(("/tmp/", "/root/")) for path in (ROOT, VENV)):
        return "needs the project outside of /tmp and /root, of which every machine has its own"
    lacking = [
        tool
        for tool in ("unshare", "nsenter", "ip", "/usr/sbin/sshd", "rsync", "ssh")
        if not shutil.which(tool)
    ]
    if lacking:
        return f"needs {', '.join(lacking)}: apt-get install openssh-server rsync iproute2"
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False
    )
    return "" if done.returncode == 0 else "namespaces are not allowed here"


class Machines:
    """A network of machines; the first, `launcher`, is where the user sits.

    Args:
        folder: Of the test; all see `shared` in it at /mnt, and each has a copy of `files` in it at /run/machine.
        count: Machines beside the launcher: 10.77.0.1 ...
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
        self._first: dict[str, subprocess.Popen[bytes]] = {"switch": subprocess.Popen(switch)}
        self._names = ["launcher", *(f"machine{number}" for number in range(1, count + 1))]

    def start(self) -> None:
        """Boot all machines and connect them."""
        _in(self._wait("switch"), "ip link add bridge type bridge && ip link set bridge up")
        for number, name in enumerate(self._names):
            boot = BOOT.format(folder=self.folder, python=sys.base_prefix, venv=VENV, name=name)
            kinds = [
                "--net",
                "--mount",
                "--pid",
                "--uts",
                "--ipc",
                "--fork",
                "--mount-proc",
                "--kill-child",
            ]
            with open(self.folder / f"{name}.log", "wb") as log:
                self._first[name] = subprocess.Popen(
                    ["unshare", *kinds, "sh", "-c", boot], stdout=log, stderr=log
                )
            self._connect(name, f"{NETWORK}.{number or 254}")
        deadline = time.monotonic() + 30
        while not all((self.shared / f".{name}").exists() for name in self._names):
            assert time.monotonic() < deadline, [
                (self.folder / f"{name}.log").read_text() for name in self._names
            ]
            time.sleep(0.1)

    def _connect(self, name: str, address: str) -> None:
        switch, inside, cable = self._wait("switch"), self._wait(name), f"v-{name[-8:]}"
        subprocess.run(["ip", "link", "add", cable, "netns", str(switch), "type", "veth",
                        "peer", "name", "eth0", "netns", str(inside)], check=True)  # fmt: skip
        _in(switch, f"ip link set {cable} master bridge up")
        _in(
            inside,
            f"ip address add {address}/24 dev eth0 && ip link set eth0 up && ip link set lo up",
        )
        _in(
            inside, "ip route add default dev eth0"
        )  # Ray asks which address a packet to the world would leave from

    def _wait(self, name: str) -> int:
        """The first process of what is starting, which is in its namespaces once it is there."""
        deadline = time.monotonic() + 10
        while not (inside := self._inside(name)):
            assert time.monotonic() < deadline, f"{name} did not start"
            time.sleep(0.05)
        return inside

    def _inside(self, name: str) -> int:
        """The machine's first process, as this machine numbers it."""
        found = subprocess.run(
            ["pgrep", "-P", str(self._first[name].pid)], capture_output=True, text=True, check=False
        )
        return int(found.stdout.split()[0]) if found.stdout else 0

    def run(
        self, name: str, command: str, timeout: float = 300, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command on a machine."""
        kinds = ["--net", "--mount", "--pid", "--uts", "--ipc"]
        done = subprocess.run(
            self._command(name, command, kinds),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, (
            f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def begin(self, name: str, command: str, log: Path) -> subprocess.Popen[bytes]:
        """Begin a shell command on a machine."""
        with open(log, "wb") as file:
            kinds = ["--net", "--mount", "--pid", "--uts", "--ipc"]
            return subprocess.Popen(self._command(name, command, kinds), stdout=file, stderr=file)

    def _command(self, name: str, command: str, kinds: list[str]) -> list[str]:
        enter = ["nsenter", "-t", str(self._inside(name)), *kinds]
        path = f"PATH={VENV}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        return [
            *enter,
            "env",
            "-i",
            "HOME=/root",
            path,
            "NO_COLOR=1",
            "RAY_USAGE_STATS_ENABLED=0",
            "sh",
            "-c",
            command,
        ]

    def kill(self, name: str) -> None:
        """Power off."""
        os.kill(self._inside(name), signal.SIGKILL)
        self._first[name].wait()

    def end(self) -> None:
        """Power off everything."""
        for process in self._first.values():
            process.kill()  # and with it, by --kill-child, the machine's first process
            process.wait()


def _in(pid: int, command: str) -> None:
    subprocess.run(["nsenter", "-t", str(pid), "--net", "sh", "-c", command], check=True)
