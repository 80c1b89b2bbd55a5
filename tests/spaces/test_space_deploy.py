"""`singlelife demo`: the Space on the Hub, in one commit of all that runs there, and the page on this machine."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import singlelife
from singlelife.cli import main
from singlelife.hub.spaces import copy_space

from ..hub_server import READER, STRANGER, WRITER, Hub, Repository
from .conftest import SPACE

pytestmark = pytest.mark.integration
COMMAND = """
from singlelife.cli import main
result = main(words)
"""


def deploy(client, *words: str, token: str | None = WRITER):
    return client.ask(COMMAND, token, words=["demo", "--deploy", "lives/cas", *words])


def names(repository: Repository) -> set[str]:
    return set(repository.commits[repository.branches["main"]]) - {".gitattributes"}


def downloaded(hub: Hub, repository: Repository, folder: Path) -> Path:
    for name in names(repository):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(hub.read(repository, name))
    return folder


def test_all_that_runs_there_is_one_commit_and_private_unless_said(hub, hub_client):
    answer = deploy(hub_client)
    assert answer.result == 0, answer.said
    assert f"{hub.url}/spaces/lives/cas" in answer.said
    repository = hub.repositories["space", "lives/cas"]
    assert repository.private and len(repository.commits) == 2
    there = names(repository)
    assert {path.name for path in SPACE.glob("*.py")} <= there
    assert {"singlelife/cli.py", "singlelife/hub_configs/models/tiny.yaml", "requirements.txt"} <= there
    assert not any("__pycache__" in name or name.startswith(("singlelife/spaces", ".")) for name in there)
    assert hub.read(repository, "models.py") == (SPACE / "models.py").read_bytes()

    assert deploy(hub_client, "--public").result == 2  # it is private
    del hub.repositories["space", "lives/cas"]
    assert deploy(hub_client, "--public").result == 0
    assert not hub.repositories["space", "lives/cas"].private


@pytest.mark.slow
def test_what_is_uploaded_runs_by_itself(hub, hub_client, tmp_path):
    assert deploy(hub_client).result == 0
    folder = downloaded(hub, hub.repositories["space", "lives/cas"], tmp_path / "app")
    code = (
        "import sys; sys.path.insert(0, '')\n"
        "import singlelife, limits, media, score\n"
        "from importlib.metadata import distribution\n"
        "result = score.Bench(limits.Limits()).example('sim_1', 'sim_2')[1]\n"
        "print(singlelife.__file__, distribution('singlelife')._path, result.comparison.methods[0])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    package, described, method = done.stdout.strip().split(maxsplit=2)
    assert Path(package).is_relative_to(folder) or package.startswith("singlelife/")
    assert f"singlelife-{singlelife.__version__}.dist-info" in described
    assert method == "cross-attention"


def test_its_requirements_are_those_of_the_package_and_of_the_page(tmp_path):
    copy_space(tmp_path / "space")
    lines = (tmp_path / "space" / "requirements.txt").read_text().splitlines()
    found = {re.split(r"[\[<>=~! ]", line)[0] for line in lines if not line.startswith("-")}
    assert {"gradio", "torch", "transformers", "huggingface-hub", "av", "pillow", "safetensors"} <= found
    assert not {"singlelife", "pytest", "ruff", "wandb"} & found
    assert len(found) == len([line for line in lines if not line.startswith("-")])


def test_an_update_deletes_what_is_gone_and_leaves_what_others_added(hub, hub_client):
    assert deploy(hub_client).result == 0
    repository = hub.repositories["space", "lives/cas"]
    before = names(repository)
    hub.put(repository, {"singlelife/old.py": b"x", "singlelife-0.0.1.dist-info/METADATA": b"x", "mine.txt": b"x"})
    assert deploy(hub_client).result == 0
    assert names(repository) == before | {"mine.txt"}
    commits = len(repository.commits)
    assert deploy(hub_client).result == 0
    assert len(repository.commits) == commits  # nothing to say


@pytest.mark.parametrize("token", [None, READER, STRANGER, "hf_wrong_token"])
def test_who_may_not_write_gets_the_reason_and_changes_nothing(token, hub, hub_client):
    answer = deploy(hub_client, token=token)
    assert answer.result == 2 and "token" in answer.said.lower()
    assert not hub.repositories
    assert token is None or token not in answer.said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        *((["--deploy", name], "ORG/NAME") for name in ("cas", "lives/cas/x", "../cas", "https://hf.co/spaces/a/b")),
        (["--port", "99999"], "--port should be a number from 1 to 65535"),
        (["--public"], "--deploy"),
        ([], "pip install 'singlelife[spaces]'"),
    ],
)
def test_what_the_demo_cannot_do_is_said(words, says, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", *words]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.slow
def test_a_port_that_is_taken_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = ["demo", "--no-browser", "--port", str(taken.getsockname()[1])]
        done = subprocess.run([sys.executable, "-m", "singlelife.cli", *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert "cannot be served on 127.0.0.1: Cannot find empty port" in done.stderr and "Traceback" not in done.stderr
