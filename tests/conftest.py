"""What all tests share: one thread each, since the models are tiny and the machine small, and no Hub."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import settings

from .hub_client import Client
from .hub_server import Hub
from .micro import MICRO, pan, save_micro_model, write_clip

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job; what tests start inherits it
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_EVALUATE_OFFLINE"] = "1"

settings.register_profile("no deadline", deadline=None)  # machines are slow at times; nothing here is timed
settings.load_profile("no deadline")

_LONGEST = ("experiments", "hub", "pretraining", "spaces")


def pytest_xdist_auto_num_workers() -> int:
    """One worker more than there are cores: tests wait for processes, a browser and a Hub."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is not marked integration, slow or gpu is a unit test. Workers begin with the folders that take longest."""
    for item in items:
        if not any(item.get_closest_marker(name) for name in ("integration", "slow", "gpu")):
            item.add_marker("unit")
    if hasattr(config, "workerinput"):
        files = {item.path for item in items if item.get_closest_marker("integration")}
        items.sort(key=lambda item: (item.path.parent.name not in _LONGEST, item.path not in files))


@pytest.fixture(scope="session")
def micro_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YAML file of the micro-model's config, for `--model`."""
    path = tmp_path_factory.mktemp("models") / "micro.yaml"
    path.write_text(yaml.safe_dump(MICRO))
    return path


@pytest.fixture(scope="session")
def micro_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of the untrained micro-model."""
    return save_micro_model(tmp_path_factory.mktemp("models") / "micro")


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of twenty seconds: a camera that pans over a fixed texture."""
    return write_clip(tmp_path_factory.mktemp("videos") / "pan.mp4", seconds=20, rate=10, picture=pan)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="session")
def small_life(clip_folder: Path):
    """The life `small` of a video of four seconds, `small.mp4`: 40 frames, of a person, and no poses."""
    from singlelife.lives.prepare import prepare_life
    from singlelife.lives.registry import get_life

    clip = write_clip(clip_folder / "small.mp4")
    return prepare_life(get_life("small", [clip]), cache_dir=clip_folder / "cache", progress=False)


@pytest.fixture(scope="session")
def run_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs keep their prepared life."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def command(clip: Path, micro_model: Path, run_cache: Path) -> Callable[..., list[str]]:
    """The command line of a run of twelve steps on the clip into `output_dir`, whose numbers are the same on every
    machine; `changes` are settings by name, instead of these, and None leaves one out."""

    def build(output_dir: Path, *flags: str, **changes: object) -> list[str]:
        settings: dict[str, object] = {
            "life": "my_pan",
            "video": clip,
            "cache_dir": run_cache,
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
            "picture_steps": 0,  # those at the end are drawn all the same
            "validation_fraction": 0.1,
            "dataloader_num_workers": 0,
            "cpu_threads": 1,
            "mixed_precision": "no",
            "color_jitter": 0.2,
            "attention": "sdpa",  # not what is faster here and now: runs are compared
        } | changes
        given = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if value is not None]
        return given + list(flags)

    return build


@pytest.fixture(scope="session")
def _whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole") / "my_pan"


@pytest.fixture
def finished_run(_whole_run: Path, command: Callable[..., list[str]], fresh_accelerate: None) -> Path:
    """A run that was never stopped, made once: 12 steps, with checkpoints of steps 8 and 12. Leave it as it is."""
    if not _whole_run.exists():
        from accelerate.state import AcceleratorState

        from singlelife.cli import main

        assert main(["train", *command(_whole_run)]) == 0
        AcceleratorState._reset_state(reset_partial_state=True)  # the test's own run may have another precision
    return _whole_run


@pytest.fixture
def whole_run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(finished_run, tmp_path / "whole" / "my_pan")


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


@pytest.fixture(scope="session")
def _hub_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    server = Hub(tmp_path_factory.mktemp("hub"))
    stop = server.start()
    yield server
    stop()


@pytest.fixture
def hub(_hub_server: Hub) -> Hub:
    """An empty Hub on the loopback interface."""
    _hub_server.dead = False
    for state in (_hub_server.repositories, _hub_server.requests, _hub_server.faults):
        state.clear()
    for file in _hub_server.folder.iterdir():
        file.unlink()
    shutil.rmtree(_hf_home(_hub_server), ignore_errors=True)  # else a download takes what an earlier test has there
    _hub_server.sent = 0
    return _hub_server


@pytest.fixture(scope="session")
def hub_environment(_hub_server: Hub) -> dict[str, str]:
    """The environment of a process that takes the loopback Hub for the real one; it has no token."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    home = str(_hf_home(_hub_server))
    return kept | {"HF_ENDPOINT": _hub_server.url, "HF_HOME": home, "HF_HUB_DISABLE_XET": "1"}


def _hf_home(server: Hub) -> Path:
    return server.folder.with_name("hf_home")


@pytest.fixture(scope="session")
def hub_client(hub_environment: dict[str, str]) -> Iterator[Client]:
    """Runs code in a process of its own, since `huggingface_hub` reads its settings when it is imported; one process
    for all, since the import takes seconds."""
    client = Client(hub_environment)
    yield client
    client.close()


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps its state for a whole process; each run of a test is to be like one of its own."""
    from accelerate.state import AcceleratorState  # takes seconds, and most tests train nothing

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
