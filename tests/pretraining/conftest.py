"""Runs of a life of twenty seconds and a model that trains on it at hundreds of steps a second."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from singlelife.lives import registry

from ..micro import words_of_a_run
from .runs import run

Command = Callable[..., list[str]]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def command(clip: Path, micro_model: Path, cache: Path) -> Command:
    """The command line of a small run into `output_dir`; `changes` are settings by field name."""

    def build(output_dir: Path, *flags: str, **changes: object) -> list[str]:
        changes = {"color_jitter": 0.2} | changes
        return words_of_a_run(output_dir, clip, micro_model, cache, **changes) + list(flags)

    return build


@pytest.fixture(scope="session")
def _whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole") / "my_pan"


@pytest.fixture
def finished_run(_whole_run: Path, command: Command) -> Path:
    """A run that was never stopped, made once: 12 steps, with checkpoints of steps 8 and 12. Leave it as it is."""
    if not _whole_run.exists():
        assert run(command(_whole_run)) == 0
        AcceleratorState._reset_state(reset_partial_state=True)  # the test's own run may have another precision
    return _whole_run


@pytest.fixture
def whole_run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(finished_run, tmp_path / "whole" / "my_pan")


@pytest.fixture
def short_sim_test(monkeypatch: pytest.MonkeyPatch) -> str:
    """A life with poses that is rendered in seconds."""
    life = registry.registered_life("sim_test")
    monkeypatch.setitem(
        registry._registered(), life.name, replace(life, simulation=replace(life.simulation, num_frames=300))
    )
    return life.name


@pytest.fixture(autouse=True)
def each_run_is_like_one_of_its_own(fresh_accelerate: None) -> None:
    """Every test here trains, or may."""
