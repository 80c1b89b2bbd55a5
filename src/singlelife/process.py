"""What this process takes of the machine."""

import sys


def peak_resident() -> int | None:
    """The most memory that this process has held so far, in bytes; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource  # which Windows lacks

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
