"""What a worker measures: seconds by phase, the peak of memory, the hardware's name."""

from __future__ import annotations

import contextlib
import math
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
