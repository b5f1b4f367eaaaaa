"""Measurements of a worker: time per phase, peak memory, usage of the device, hardware name."""

from __future__ import annotations

import contextlib
import math
import os
import time
from pathlib import Path
from typing import Any

import torch


class Phases:
    """Seconds per phase of a loop, measured without synchronising with the device.

    On a GPU, the marks are CUDA events: the seconds of a phase are the time in which the GPU worked
    on the phase or waited for it. On a CPU, the marks are times of the clock. The first phase
    begins when the object is created.

    Args:
        device: The device that runs the loop.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._marks: list[tuple[str, Any]] = [("", self._now())]

    def mark(self, phase: str) -> None:
        """End a phase, which contains all work queued since the last mark."""
        self._marks.append((phase, self._now()))

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each phase; call this after the device has finished its work."""
        totals: dict[str, float] = {}
        on_gpu = self._device.type == "cuda"
        for (_, start), (phase, end) in zip(self._marks, self._marks[1:], strict=False):
            seconds = start.elapsed_time(end) / 1000 if on_gpu else end - start
            totals[phase] = totals.get(phase, 0.0) + seconds
        return totals

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


class Usage:
    """Usage of this process and its device: the metrics `system/...`, read once per epoch.

    MLflow displays metrics with this prefix separately. The first period begins when the object is
    created.

    Args:
        device: The device of the process.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._since = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """Return the usage since the last call.

        `system/cpu_percent` (100 is one core) and `system/rss_mb` (Linux only) describe the
        process. On a GPU, `system/gpu_memory_mb` is the memory in use by all processes, and
        `system/gpu_percent` is present if the package `nvidia-ml-py` is installed.
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
            with contextlib.suppress(Exception):  # an error of nvidia-ml-py must not fail a trial
                usage["system/gpu_percent"] = float(torch.cuda.utilization(self._device))
        return usage


def device_name(device: str | torch.device) -> str:
    """Return the GPU's name, or `cpu`."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak memory, so that a trial does not report the peak of an earlier trial.

    Where the operating system does not allow it, the peak since the start of the process remains.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # not Linux, or no permission
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory in MiB since the last reset.

    On a GPU, this is the memory that torch has allocated. On a CPU, it is the resident memory of
    the process, or NaN on systems without `/proc`.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM"))
