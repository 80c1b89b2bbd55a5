"""A small life, and runs that learnt from it, to be pushed."""

from pathlib import Path

import pytest

from ..micro import write_clip


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a video of four seconds, `small.mp4`."""
    return write_clip(tmp_path_factory.mktemp("clips") / "small.mp4", seconds=4).parent


@pytest.fixture(scope="session")
def small_life(clip_folder: Path, tmp_path_factory: pytest.TempPathFactory):
    """The life `small` of that video: 40 frames, of a person, and no poses."""
    from singlelife.lives.prepare import prepare_life
    from singlelife.lives.registry import get_life

    life = get_life("small", [clip_folder / "small.mp4"])
    return prepare_life(life, cache_dir=tmp_path_factory.mktemp("cache"), num_workers=1, progress=False)
