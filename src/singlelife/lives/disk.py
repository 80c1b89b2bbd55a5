"""Room on a disk, looked for before the work that needs it starts."""

import shutil
from pathlib import Path

from singlelife.errors import LifeError
from singlelife.units import in_bytes


def free_bytes(path: Path) -> int:
    """Room on the disk of a path, which need not be there yet."""
    path = path.absolute()
    return shutil.disk_usage(next(there for there in (path, *path.parents) if there.exists())).free


def check_room(needed: int, folder: Path, what: str, otherwise: str) -> None:
    """Make sure that the disk of a folder, which need not be there yet, has room.

    Args:
        needed: in bytes.
        folder: where it is needed.
        what: needs it, such as `"The life sim_1"`.
        otherwise: what else there is to do but make room.

    Raises:
        LifeError: it has not.
    """
    if needed > (free := free_bytes(folder)):
        raise LifeError(
            f"{what} needs about {in_bytes(needed)} in {folder}, where {in_bytes(free)} are free. Make room, or "
            f"{otherwise}."
        )
