"""Measure seconds and bytes, and describe the machine."""

import contextlib
import ctypes
import datetime
import gc
import os
import platform
import statistics
import sys
import time
from importlib import metadata
from pathlib import Path

PACKAGES = (
    *("skparse", "numpy", "scipy", "scikit-learn", "torch", "numba", "joblib"),
    *("skorch", "fasttext-community", "napkinxc"),
)


def time_calls(call, repeats, budget=float("inf")):
    """Return the seconds of `repeats` calls, or of fewer once their sum exceeds `budget`."""
    seconds = []
    while len(seconds) < repeats and sum(seconds) < budget:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def microseconds_per_row(call, rows, n_rows, repeats, budget):
    """Return the median time of a call on all rows at once, divided by the number of rows."""
    return 1e6 * statistics.median(time_calls(lambda: call(rows), repeats, budget)) / n_rows


def microseconds_for_one_row(call, rows, n_rows, n_calls=200, budget=10.0):
    """Return the median time of calls that pass one row each, as a service would."""
    singles = [rows[i : i + 1] for i in range(min(n_calls, n_rows))]
    seconds = []
    for single in singles:
        seconds += time_calls(lambda single=single: call(single), 1)
        if sum(seconds) > budget:
            break
    return 1e6 * statistics.median(seconds)


class PeakMemory:
    """Context manager that measures the peak memory of its block.

    `extra_bytes` is the peak minus the memory on entry, `total_bytes` the peak of the whole
    process, interpreter and libraries included.

    On Linux the kernel's high-water mark is reset on entry, so the figure is accurate to a
    fraction of a megabyte and includes the allocations of every library. On other systems the
    mark is that of the whole life of the process, so the figure is a lower bound.
    """

    def __enter__(self):
        """Reset the mark to the current memory."""
        gc.collect()
        # Memory that was freed but is still held would hide allocations of the block.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self._before = _high_water_bytes()
        return self

    def __exit__(self, *exception):
        """Read the mark."""
        self.total_bytes = _high_water_bytes()
        self.extra_bytes = self.total_bytes - self._before


def _high_water_bytes():
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss: it starts at the mark of the parent process.
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    import resource  # not on Windows, where memory is not measured

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def stored_bytes(path):
    """Return the size of a file, or of all files of a folder."""
    path = Path(path)
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def describe_machine():
    """Return processor, cores, system, versions and date."""
    return {
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES if _version(name)},
        "date": datetime.date.today().isoformat(),
    }


def _processor_name():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
