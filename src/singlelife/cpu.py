"""How a process shares and keeps what a CPU has; to be settled before torch is imported."""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def settle_cpu() -> None:
    """Make training steps of small models on a CPU cheaper; `benchmarks/training_step.py` shows by how much.

    Threads wait for each other's part of an operation by spinning for some microseconds and then sleep. OpenMP's
    default, to spin for long, makes every step several times slower as soon as anything else wants a core, the run's
    own loader included; to sleep at once wakes threads thousands of times a step. `OMP_WAIT_POLICY` and
    `GOMP_SPINCOUNT` of the environment win.

    Freed memory is kept for the next step instead of given back to the system, which would clear every page anew.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the highest it takes; larger blocks do go back
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
