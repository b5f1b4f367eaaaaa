"""What a worker measures: seconds by phase, the peak of memory, how busy its device is, the hardware's name."""

from __future__ import annotations

import contextlib
import math
import os
import time
from pathlib import Path
from typing import Any

import torch


class Phases:
    """Seconds by phase of a loop, without ever waiting for the device.

    On a GPU the marks are events in its queue, so that a phase gets the time in which the GPU worked on it or waited
    for it; on a CPU they are the clock.

    Args:
        device: Where the loop works; the first phase begins now.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._marks: list[tuple[str, Any]] = [("", self._now())]

    def mark(self, phase: str) -> None:
        """What has been queued since the last mark belongs to `phase`."""
        self._marks.append((phase, self._now()))

    def seconds(self) -> dict[str, float]:
        """Seconds by phase; only when the device has done what was queued."""
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
    """How busy this process and its device are, read once an epoch: `system/...`, which MLflow shows apart.

    Args:
        device: Where the process works; the first span begins now.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._since = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """Since the last call.

        `system/cpu_percent` (100 is one core) and `system/rss_mb` of the process; on a GPU `system/gpu_memory_mb` that
        is in use by all who share it and, where NVIDIA's library for it is installed, `system/gpu_percent` of the last
        moments.
        """
        now = time.perf_counter(), time.process_time()
        wall, busy = (later - before for later, before in zip(now, self._since, strict=True))
        self._since = now
        found = {"system/cpu_percent": 100 * busy / wall, **self._resident()}
        if self._device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._device)
            found["system/gpu_memory_mb"] = (total - free) / 2**20
            with contextlib.suppress(Exception):  # the library has errors of its own, and none is worth a trial
                found["system/gpu_percent"] = float(torch.cuda.utilization(self._device))
        return found

    def _resident(self) -> dict[str, float]:
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
        except OSError:  # not Linux
            return {}
        return {"system/rss_mb": pages * os.sysconf("SC_PAGE_SIZE") / 2**20}


def device_name(device: str | torch.device) -> str:
    """Name of the hardware: the GPU's, or `cpu`."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def reset_peak_memory(device: torch.device) -> None:
    """Start measuring the peak: a process's high-water mark outlives the trial that set it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # not Linux, or not allowed: the mark is the process's
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(device: torch.device) -> float:
    """Peak since the last reset in MiB: allocated on a GPU, resident otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM"))
