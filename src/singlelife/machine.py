"""The machine: which device models run on, how a CPU is shared, what memory this process takes."""

import ctypes
import os
import sys
from pathlib import Path

from singlelife.errors import SingleLifeError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def configure_cpu() -> None:
    """Make training steps of small models on a CPU cheaper; `benchmarks/training_step.py` shows by how much.

    Threads wait for each other by spinning for some microseconds and then sleep: OpenMP's default, to spin for long,
    makes every step several times slower as soon as anything else wants a core. `OMP_WAIT_POLICY` and
    `GOMP_SPINCOUNT` of the environment win. Freed memory is kept for the next step.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the highest it takes; larger blocks do go back
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def say(text: str) -> None:
    """Tell the user on stderr what goes on; of several processes that were launched together, the first one does."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr, flush=True)


def choose_device(name: str = "auto") -> str:
    """The device to run on.

    Args:
        name: `"auto"` for the first GPU (CUDA, then Apple's) where there is one, else the CPU; or a device of torch,
            such as `"cuda:1"`.

    Raises:
        SingleLifeError: torch cannot use that device here.
    """
    import torch  # seconds to import; not every user of this module needs it

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise SingleLifeError(f"--device {name} cannot be used here: {error}".splitlines()[0]) from error
    return name


def free_memory(device: str = "cpu") -> dict[str, int]:
    """Bytes of memory that a model can take, by where that is: on its way to a GPU it is in both."""
    free = {}
    try:  # Linux knows what it would give back of its caches
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free[""] = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        free[""] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if device.startswith("cuda"):
        import torch

        free[f" on {device}"] = torch.cuda.mem_get_info(device)[0]
    return free


def peak_resident() -> int | None:
    """The most memory that this process has held so far, in bytes; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    if sys.platform == "linux":  # whose getrusage begins a new process at the peak of the one that started it
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    import resource  # which Windows lacks

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def resident() -> int | None:
    """The memory that this process holds now, in bytes; None where there is no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
