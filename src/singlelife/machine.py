"""The machine: the device that models run on, CPU settings, memory."""

import ctypes
import os
import sys
from pathlib import Path

from singlelife.errors import SingleLifeError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def configure_cpu() -> None:
    """Speed up training steps of small models on a CPU; `benchmarks/training_step.py` measures by how much.

    Threads that wait for each other spin for some microseconds and then sleep. OpenMP's default is to spin for long,
    which makes every step several times slower as soon as another process wants a core. `OMP_WAIT_POLICY` and
    `GOMP_SPINCOUNT` in the environment take precedence. Freed memory is kept for the next step.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the highest it takes; larger blocks do go back
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def say(text: str) -> None:
    """Print a message for the user on stderr; if several processes were launched together, only the first prints."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr, flush=True)


def choose_device(name: str = "auto") -> str:
    """The device to run on.

    Args:
        name: `"auto"` for the first GPU (CUDA, then Apple's), or the CPU if there is none; or a torch device, such as
            `"cuda:1"`.

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
    """Bytes of memory that a model can take: `""` for the machine, and `" on DEVICE"` for a GPU. A model passes
    through the machine's memory on its way to a GPU, and so needs both."""
    free = {}
    try:  # Linux counts caches that it would give back
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free[""] = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        free[""] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if device.startswith("cuda"):
        import torch

        free[f" on {device}"] = torch.cuda.mem_get_info(device)[0]
    return free


def peak_resident() -> int | None:
    """The peak memory of this process so far, in bytes; None if the system does not report it."""
    if sys.platform == "win32":
        return None
    if sys.platform == "linux":  # its getrusage starts a new process at its parent's peak
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    import resource  # which Windows lacks

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def resident() -> int | None:
    """The memory that this process holds now, in bytes; None if there is no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
