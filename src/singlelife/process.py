"""What this process takes of the machine."""

import os
import sys
from pathlib import Path


def peak_resident() -> int | None:
    """The most memory that this process has held so far, in bytes; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource  # which Windows lacks

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def resident() -> int | None:
    """The memory that this process holds now, in bytes; None where there is no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
