"""What all tests share: one thread each, since the models are tiny and the machine small, and no Hub."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

settings.register_profile("no deadline", deadline=None)  # machines are slow at times; nothing here is timed
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def sim_test(tmp_path_factory: pytest.TempPathFactory):
    """A few seconds of the simulated life that alignment is measured on, prepared for real."""
    return _prepared("sim_test", 500, tmp_path_factory.mktemp("sim_test"))


@pytest.fixture(scope="session")
def sim_still(tmp_path_factory: pytest.TempPathFactory):
    """A few seconds of the still camera."""
    return _prepared("sim_still", 100, tmp_path_factory.mktemp("sim_still"))


def _prepared(name: str, num_frames: int, cache_dir: Path):
    from singlelife.lives.prepare import prepare_life  # once the environment above is set
    from singlelife.lives.registry import get_life

    life = get_life(name)
    short = replace(life, simulation=replace(life.simulation, num_frames=num_frames))
    return prepare_life(short, cache_dir=cache_dir, progress=False)
