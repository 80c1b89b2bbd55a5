"""A small life, and runs that learnt from it, to be pushed; and the command that pushes them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ..hub_client import Answer, Client
from ..hub_server import WRITER, Hub, Repository

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


@pytest.fixture
def train(hub_client: Client) -> Callable[..., Answer]:
    """Trains in the client's process, where the Hub is; at the end a run waits `seconds` for its last push."""

    def run(words: list[str], token: str | None = WRITER, seconds: float = 60) -> Answer:
        return hub_client.ask(TRAIN, token, words=words, seconds=seconds)

    return run


@pytest.fixture
def broken_off_run(whole_run: Path, tmp_path: Path) -> Path:
    """Another, as if it had been killed between steps 8 and 12."""
    copy = shutil.copytree(whole_run, tmp_path / "broken_off" / "my_pan")
    shutil.rmtree(copy / "checkpoint-12")
    for pattern in ("model.safetensors", "*config.json", "*_croco.py", "*.png"):
        for file in copy.glob(pattern):
            file.unlink()
    return copy
