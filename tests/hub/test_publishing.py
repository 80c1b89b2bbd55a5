"""Runs that push themselves as they go on, and runs that go on from what was pushed."""

import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from singlelife.hub.errors import HubUnreachable
from singlelife.pretraining import publishing
from singlelife.pretraining.publishing import HubConfig, Publisher
from singlelife.pretraining.run_folder import RunFolder, read_metrics

from ..hub_server import READER, USERS, WRITER, Fault
from .conftest import files, push, pushed

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
TIMES = {"pairs_per_second", "data_wait", "tflops", "mfu"}  # among the metrics: how fast the machine was


def lines(folder: Path) -> list[dict]:
    return [
        {name: value for name, value in line.items() if name not in TIMES}
        for line in read_metrics(folder / "metrics.jsonl")
    ]


def is_whole(hub, repository, folder: Path) -> bool:
    """Whether a repository has a finished run's model, and the state that it was finished in."""
    weights = (folder / "model.safetensors").read_bytes() == hub.read(repository, "model.safetensors")
    steps = {name.split("/")[0] for name in files(repository, "training-state") if "/" in name}
    return weights and steps == {"checkpoint-12"} and "reconstruction.png" in files(repository)


# Pushing as the run goes on.


def test_a_run_pushes_itself_and_is_not_changed_by_it(hub, train, command, whole_run, tmp_path):
    folder = tmp_path / "run"
    answer = train(command(folder, "--push-to-hub", push_steps=4))
    assert answer.error is None and answer.result == 0, answer
    repository = hub.repositories["model", "ann/singlelife-my-pan"]
    assert repository.private and is_whole(hub, repository, folder)
    assert f"Pushed to {hub.url}/ann/singlelife-my-pan (private), after step 12" in answer.said
    assert lines(folder) == lines(whole_run)
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole_run.iterdir()}
    assert "push_to_hub" not in (folder / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("token", "repo", "message"),
    [
        (READER, "ann/mine", "needs a token with write access"),
        (WRITER, "ann/other", "holds a model of the life wt_3"),
        (WRITER, "ann/p an", "ORG/NAME"),
    ],
)
def test_what_cannot_be_pushed_to_is_said_before_the_training(hub, train, command, tmp_path, token, repo, message):
    hub.create("ann/mine", "model", private=True)
    hub.put(hub.create("ann/other", "model", private=True), {"config.yaml": b"life: wt_3\n"})
    answer = train(command(tmp_path / "run", "--push-to-hub", hub_model_id=repo), token)
    assert answer.result == 2 and message in answer.said and not (tmp_path / "run").exists()


def test_a_dead_hub_does_not_stop_a_run_and_push_finishes_it_later(
    hub, hub_client, train, command, whole_run, tmp_path
):
    folder = tmp_path / "run"
    hub.dead = True
    answer = train(command(folder, "--push-to-hub", push_steps=4), seconds=3)
    assert answer.error is None and answer.result == 0, answer
    assert "Warning: " in answer.said and "NOT PUSHED to the Hub: " in answer.said
    assert lines(folder) == lines(whole_run)
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole_run.iterdir()}
    (line,) = [line for line in answer.said.splitlines() if line.strip().startswith("singlelife push ")]
    hub.dead = False
    assert push(hub_client, *line.split()[2:]).result == 0
    assert is_whole(hub, hub.repositories["model", "ann/singlelife-my-pan"], folder)


def test_a_push_is_tried_again_as_the_run_goes_on(hub, train, command, tmp_path):
    busy = Fault("POST", "/commit/training-state", status=429, retry_after=1, times=2)
    hub.faults.append(busy)
    answer = train(command(tmp_path / "run", "--push-to-hub", hub_model_id="ann/pan"))
    assert answer.error is None and answer.result == 0, answer
    assert busy.times <= 0
    assert is_whole(hub, hub.repositories["model", "ann/pan"], tmp_path / "run")
    assert "NOT PUSHED" not in answer.said


def test_a_token_that_is_taken_away_meanwhile_is_said_at_the_end(hub, train, command, tmp_path):
    hub.faults.append(Fault("POST", "/preupload/", status=403, times=1000))
    answer = train(command(tmp_path / "run", "--push-to-hub", hub_model_id="ann/pan"))
    assert answer.error is None and answer.result == 0, answer
    assert "NOT PUSHED" in answer.said and "your token does not allow it" in answer.said
    assert f"singlelife push {tmp_path / 'run'} ann/pan" in answer.said


@pytest.mark.parametrize("silent", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_stop_does_not_wait_for_a_hub_that_is_dead_or_hangs(hub, hub_environment, command, tmp_path, silent):
    if silent:  # it takes the connection and says nothing, in the middle of the weights too
        hub.faults.append(Fault("PUT", "/lfs/", after=10_000, times=10**6, silent=100))
    else:
        hub.dead = True
    folder = tmp_path / "run"
    words = command(folder, "--push-to-hub", max_steps=100_000, hub_model_id="ann/pan")
    code = "from singlelife.pretraining import publishing\npublishing._SECONDS_WHEN_STOPPED = 1\n"
    code += "import sys\nfrom singlelife.cli import main\nsys.exit(main(['train', *sys.argv[1:]]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=ROOT, env=hub_environment | {"HF_TOKEN": WRITER}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while not RunFolder(folder).checkpoints():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "--resume" in out and "NOT PUSHED" in out
    assert f"singlelife push {folder} ann/pan --training-state" in out
    assert not list(folder.glob(".push*"))  # nothing is left behind


def test_a_run_that_fails_pushes_what_it_saved(hub, train, command, tmp_path):
    diverging = {"learning_rate": 1e30, "warmup_steps": 0, "max_grad_norm": 0, "save_steps": 1, "max_skipped_steps": 3}
    answer = train(command(tmp_path / "run", "--push-to-hub", hub_model_id="ann/pan", **diverging))
    assert answer.result == 2 and "in a row" in answer.said
    weights = (tmp_path / "run" / "checkpoint-1" / "model.safetensors").read_bytes()
    assert hub.read(hub.repositories["model", "ann/pan"], "model.safetensors") == weights


# What waits to be pushed.


def test_a_checkpoint_outlives_its_deletion_and_the_newest_replaces_those_that_wait(whole_run, monkeypatch):
    """The first push hangs while its checkpoint is deleted and two more come in, and fails; then the newest goes."""
    folder, pushes, started, hang = RunFolder(whole_run), [], threading.Event(), threading.Event()
    for name in ("config.json", "model.safetensors"):  # as in a run that goes on
        (whole_run / name).unlink()
    weights = {step: (path / "model.safetensors").read_bytes() for step, path in folder.checkpoints().items()}
    last = folder.checkpoint_path(12).rename(whole_run.with_name("last"))

    def publications(path, *_, **__):
        (checkpoint,) = path.glob("checkpoint-*")
        started.set()
        if not pushes:
            hang.wait(30)
        step = int(checkpoint.name.split("-")[1])
        pushes.append(step)
        assert (checkpoint / "model.safetensors").read_bytes() == weights[step]
        if len(pushes) == 1:
            raise HubUnreachable("busy", retry_after=0.01)
        return []

    monkeypatch.setattr(publishing, "run_publications", publications)
    with Publisher(HubConfig(push_to_hub=True, push_steps=1), "ann/pan", folder) as publisher:
        publisher.offer(folder.checkpoint_path(8))
        assert started.wait(30)
        shutil.rmtree(folder.checkpoint_path(8))
        for step in (10, 11, 12):
            weights[step] = weights[12]
            shutil.copytree(last, folder.checkpoint_path(step))
            publisher.offer(folder.checkpoint_path(step))
        hang.set()
        assert "after step 12" in publisher.finish(hurry=False)
    assert pushes == [8, 12] and not list(whole_run.glob(".push*"))


# Continuing elsewhere.


def test_a_pushed_state_continues_elsewhere_as_if_the_run_had_never_stopped(
    hub, hub_client, train, command, whole_run, broken_off_run
):
    assert push(hub_client, broken_off_run, "ann/pan", "--training-state").result == 0
    elsewhere = broken_off_run.with_name("elsewhere")
    code = (
        "import huggingface_hub\nresult = huggingface_hub.snapshot_download(repo, revision=branch, local_dir=folder)"
    )
    hub_client(code, repo="ann/pan", branch="training-state", folder=elsewhere)  # as `hf download` does
    answer = train(command(elsewhere, "--resume"))
    assert answer.error is None and answer.result == 0, answer
    assert lines(elsewhere) == lines(whole_run)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (elsewhere, whole_run))
    assert all((tensor == theirs[name]).all() for name, tensor in ours.items())
    assert list(RunFolder(elsewhere).checkpoints()) == [8, 12]


# The token.


def test_the_token_is_written_nowhere(hub, hub_environment, command, tmp_path):
    """Not into the run folder, the tracker's files or the repository, and it is not printed, even in errors."""
    folder, environment = tmp_path / "run", hub_environment | {"HF_TOKEN": WRITER, "HF_DEBUG": "1"}
    hub.faults.append(Fault("POST", "/preupload/", status=403, times=1))  # errors name the request
    hub.faults.append(Fault("POST", "/commit/main", status=500, times=1))
    settings = {"hub_model_id": "ann/pan", "push_steps": 4, "report_to": "tensorboard"}
    commands = (
        ["train", *command(folder, "--push-to-hub", **settings)],
        ["push", str(folder), "ann/pan", "--training-state"],
    )
    code = f"from singlelife.cli import main; assert not any(map(main, {commands}))"  # each gives 0
    ran = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=200, env=environment)
    assert ran.returncode == 0, ran.stderr
    said = [ran.stdout, ran.stderr]
    assert any("curl" in text for text in said)  # HF_DEBUG shows requests
    assert list(folder.rglob("events.out.tfevents*"))
    assert is_whole(hub, hub.repositories["model", "ann/pan"], folder)
    written = [file for place in (hub.folder, tmp_path) for file in place.rglob("*") if file.is_file()]
    for token in USERS:
        assert not [file for file in written if token.encode() in file.read_bytes()]
        assert not [text for text in said if token in text]


# A life of the Hub.


def test_a_run_on_the_hubs_life_is_that_on_ones_own(hub, hub_client, train, command, clip, run_cache, tmp_path):
    from singlelife.lives.prepare import prepare_life
    from singlelife.lives.registry import get_life

    assert train(command(tmp_path / "local")).result == 0
    life = prepare_life(get_life("my_pan", [clip]), cache_dir=run_cache, progress=False)
    began_with = pushed(hub, hub_client, life.path, "ann/my_pan").branches["main"]
    words = command(tmp_path / "run", life="ann/my_pan", video=None, cache_dir=tmp_path)
    assert train(words).result == 0
    assert lines(tmp_path / "run") == lines(tmp_path / "local")

    def life_of_run() -> str:
        return yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["life"]

    assert life_of_run() == f"ann/my_pan@{began_with}"
    # What is on the Hub changes; a run that is resumed goes on with the frames that it began with.
    repository = pushed(hub, hub_client, life.path, "ann/my_pan", shard_bytes=100_000)
    assert repository.branches["main"] != began_with
    assert train([*words, f"--resume-from={tmp_path / 'run' / 'checkpoint-8'}"]).result == 0
    assert life_of_run() == f"ann/my_pan@{began_with}"
    assert lines(tmp_path / "run") == lines(tmp_path / "local")
