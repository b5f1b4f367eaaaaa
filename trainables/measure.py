"""Measurements of a worker: seconds by phase, peak memory, usage of the device, name of the hardware."""

from __future__ import annotations

import contextlib
import math
import os
import time
from pathlib import Path
from typing import Any

import torch


class Phases:
    """Seconds by phase of a loop, measured without waiting for the device.

    On a GPU the marks are events in its queue, so a phase gets the time in which the GPU worked on it or waited for it;
    on a CPU they are times of the clock.

    Args:
        device: The device of the loop; the first phase begins now.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._marks: list[tuple[str, Any]] = [("", self._now())]

    def mark(self, phase: str) -> None:
        """End a phase: everything that was queued since the last mark belongs to it."""
        self._marks.append((phase, self._now()))

    def seconds(self) -> dict[str, float]:
        """Return the seconds by phase; call it when the device has finished what was queued."""
        totals: dict[str, float] = {}
        for (_, before), (phase, now) in zip(self._marks, self._marks[1:], strict=False):
            spent = before.elapsed_time(now) / 1000 if self._device.type == "cuda" else now - before
            totals[phase] = totals.get(phase, 0.0) + spent
        return totals

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


class Usage:
    """Usage of this process and its device, read once an epoch: `system/...`, which MLflow shows separately.

    Args:
        device: The device of the process; the first period begins now.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._since = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """Return the usage since the last call.

        `system/cpu_percent` (100 is one core) and `system/rss_mb` of the process; on a GPU also `system/gpu_memory_mb`,
        in use by all processes, and `system/gpu_percent` if NVIDIA's library for it is installed.
        """
        now = time.perf_counter(), time.process_time()
        wall, busy = (later - before for later, before in zip(now, self._since, strict=True))
        self._since = now
        usage = {"system/cpu_percent": 100 * busy / wall}
        with contextlib.suppress(OSError):  # not Linux
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            usage["system/rss_mb"] = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        if self._device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._device)
            usage["system/gpu_memory_mb"] = (total - free) / 2**20
            with contextlib.suppress(
                Exception
            ):  # an error of NVIDIA's library must not fail a trial
                usage["system/gpu_percent"] = float(torch.cuda.utilization(self._device))
        return usage


def device_name(device: str | torch.device) -> str:
    """Return the name of the hardware: the GPU's, or `cpu`."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak: the high-water mark of a process remains after the trial that set it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # not Linux, or not allowed: the peak is that of the process
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak since the last reset in MiB: allocated on a GPU, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM"))
