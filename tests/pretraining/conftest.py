"""Runs of a life of twenty seconds and a model that trains on it at hundreds of steps a second."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from singlelife.lives import registry

from .runs import run

Command = Callable[..., list[str]]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def command(clip: Path, micro_model: Path, cache: Path) -> Command:
    """The command line of a small run into `output_dir`; `changes` are settings by field name."""

    def build(output_dir: Path, *flags: str, **changes: object) -> list[str]:
        settings: dict[str, object] = {
            "life": "my_pan",
            "video": clip,
            "cache_dir": cache,
            "output_dir": output_dir,
            "model": micro_model,
            "min_gap": 0.1,
            "max_gap": 0.4,
            "max_steps": 12,
            "train_batch_size": 8,
            "learning_rate": 2e-3,
            "warmup_steps": 4,
            "logging_steps": 1,
            "eval_steps": 6,
            "eval_pairs": 12,
            "save_steps": 4,
            "validation_fraction": 0.1,
            "color_jitter": 0.2,
            "dataloader_num_workers": 0,
            "cpu_threads": 1,
            "mixed_precision": "no",
            "attention": "sdpa",  # not what is faster here and now: runs are compared
        } | changes
        words = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if value is not None]
        return words + list(flags)

    return build


@pytest.fixture(scope="session")
def _whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole") / "my_pan"


@pytest.fixture
def finished_run(_whole_run: Path, command: Command) -> Path:
    """A run that was never stopped, made once: 12 steps, with checkpoints of steps 8 and 12. Leave it as it is."""
    if not _whole_run.exists():
        assert run(command(_whole_run)) == 0
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
def fresh_accelerate():
    """Accelerate keeps its state for a whole process; each run of a test is to be like one of its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
