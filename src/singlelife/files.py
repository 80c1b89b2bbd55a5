"""Files: written whole or not at all, room on the disk, and the configs that ship with the package."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml
from filelock import AcquireReturnProxy, FileLock, Timeout

from singlelife.errors import LifeError, SingleLifeError
from singlelife.text import in_bytes

_PACKAGE = Path(__file__).resolve().parent


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place when all is well, and is deleted when it is not. Several processes may
    write the same path: the last one stays."""
    aside = path.with_name(f".{path.name}.{os.getpid()}-{uuid4().hex[:8]}.tmp")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_dir(folder: Path) -> Iterator[Path]:
    """A folder `<name>.tmp` beside `folder` to write into. It takes the place of `folder` once all of it is on the
    disk, and is deleted when that fails. A kill at any moment leaves no half-written `folder`."""
    aside = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        for path in [*aside.rglob("*"), aside]:
            sync(path)
        if folder.exists():
            remove_dir(folder)
        aside.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def remove_dir(folder: Path) -> None:
    """Delete a folder, which loses its name first: nothing of that name is ever half deleted."""
    old = folder.with_name(f"{folder.name}.old.tmp")
    shutil.rmtree(old, ignore_errors=True)  # of a process that was killed while it deleted
    shutil.rmtree(folder.rename(old))


def sync(path: Path) -> None:
    """Have what was written to a file, or the names in a folder, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def locked(path: Path, what: str) -> AcquireReturnProxy:
    """Hold the lock of a file or folder, in the folder `.locks` beside it. If another process holds it, say so on
    stderr and wait.

    Args:
        path: what is worked on; it need not be there.
        what: the same for people, such as `"the life sim_1"`.
    """
    lock = path.parent / ".locks" / f"{path.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(lock).acquire(timeout=0)
    except Timeout:
        print(f"Another process is working on {what}; waiting for it.", file=sys.stderr)
        return FileLock(lock).acquire()


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


def hub_configs() -> Path:
    """Folder of the shipped configs: inside the installed package, or at the top of a checkout."""
    for folder in (_PACKAGE / "hub_configs", _PACKAGE.parents[1] / "hub_configs"):
        if folder.is_dir():
            return folder
    raise SingleLifeError(f"hub_configs is missing beside {_PACKAGE}: the installation is incomplete; reinstall it.")


def config_names(kind: str) -> list[str]:
    """Names of the shipped configs of one kind (`lives`, `models`, `train`), sorted."""
    return sorted(path.stem for path in (hub_configs() / kind).glob("*.yaml"))


def pair_set_names() -> list[str]:
    """Names of the pair sets that come with the package, sorted."""
    return sorted(path.name for path in (hub_configs() / "pairs").iterdir())


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        SingleLifeError: the file is missing, is not YAML, or does not hold a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SingleLifeError(f"Cannot read the config {path}: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise SingleLifeError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise SingleLifeError(f"{path} should hold a mapping of names to values, not {type(content).__name__}.")
    return content
