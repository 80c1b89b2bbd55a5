"""A small life, and runs that learnt from it, to be pushed; and the command that pushes them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ..hub_client import Answer, Client
from ..hub_server import WRITER, Hub, Repository
from ..micro import words_of_a_run, write_clip

PUSH = """
from singlelife.cli import main
from singlelife.lives import hub
hub.SHARD_BYTES = shard_bytes
result = main(["push", *words])
"""
TRAIN = """
from accelerate.state import AcceleratorState
from singlelife.cli import main
from singlelife.pretraining import publishing
AcceleratorState._reset_state(reset_partial_state=True)
publishing._SECONDS_AT_THE_END = seconds
result = main(["train", *words])
"""
Words = Callable[..., list[str]]


def push(client: Client, *words: object, token: str | None = WRITER, shard_bytes: int = 1_000_000) -> Answer:
    """`singlelife push` in the client's process."""
    return client.ask(PUSH, token, words=list(map(str, words)), shard_bytes=shard_bytes)


def pushed(hub: Hub, client: Client, what: Path, repo: str, *words: object, **options: int) -> Repository:
    """The repository that something was pushed to."""
    answer = push(client, what, repo, *words, **options)
    assert answer.error is None and answer.result == 0, answer
    return next(repository for (_, name), repository in hub.repositories.items() if name == repo)


def files(repository: Repository, branch: str = "main") -> set[str]:
    return set(repository.commits[repository.branches[branch]]) - {".gitattributes"}


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


@pytest.fixture(scope="session")
def life_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs keep their prepared life."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def run_words(clip: Path, micro_model: Path, life_cache: Path) -> Words:
    """The command line of a run of twelve steps into `output_dir`; `changes` are settings by name."""

    def build(output_dir: Path, *flags: str, **changes: object) -> list[str]:
        changes = {"save_total_limit": 2} | changes
        return words_of_a_run(output_dir, clip, micro_model, life_cache, **changes) + list(flags)

    return build


@pytest.fixture
def train(hub_client: Client) -> Callable[..., Answer]:
    """Trains in the client's process, where the Hub is; at the end a run waits `seconds` for its last push."""

    def run(words: list[str], token: str | None = WRITER, seconds: float = 60) -> Answer:
        return hub_client.ask(TRAIN, token, words=words, seconds=seconds)

    return run


@pytest.fixture(scope="session")
def _whole_run(hub_client: Client, run_words: Words, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "my_pan"
    assert hub_client(TRAIN, words=run_words(folder), seconds=0) == 0
    return folder


@pytest.fixture
def whole_run(_whole_run: Path, tmp_path: Path) -> Path:
    """A copy of a run that was never stopped: 12 steps, with checkpoints of steps 8 and 12."""
    return shutil.copytree(_whole_run, tmp_path / "whole" / "my_pan")


@pytest.fixture
def broken_off_run(whole_run: Path, tmp_path: Path) -> Path:
    """Another, as if it had been killed between steps 8 and 12."""
    copy = shutil.copytree(whole_run, tmp_path / "broken_off" / "my_pan")
    shutil.rmtree(copy / "checkpoint-12")
    for pattern in ("model.safetensors", "*config.json", "*_croco.py", "*.png"):
        for file in copy.glob(pattern):
            file.unlink()
    return copy
