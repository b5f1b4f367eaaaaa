"""Check the paths of Ray's sockets before Ray is imported, which takes seconds."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# The longest path of a Unix socket: the field `sun_path` without its final zero.
MAX_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107


def temporary_folder() -> Path:
    """Return the folder in which Ray creates the folders of its sessions."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    return Path(folder) / "ray"


def socket_problem() -> str:
    """Return a line if the paths of Ray's sockets are too long for the system, else ""."""
    folder = temporary_folder()
    session = f"session_0000-00-00_00-00-00_000000_{os.getpid()}"
    size = len(os.fsencode(folder / session / "sockets" / "plasma_store"))
    if size <= MAX_SOCKET_BYTES:
        return ""
    longest = len(os.fsencode(folder.parent)) - (size - MAX_SOCKET_BYTES)
    return (
        f"Ray cannot use the temporary folder {folder.parent}: the paths of its sockets would have "
        f"{size} bytes, and the system allows {MAX_SOCKET_BYTES}. Set TMPDIR or RAY_TMPDIR to a "
        f"folder whose path has at most {longest} bytes, such as /tmp"
    )
