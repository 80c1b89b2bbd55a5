"""Runs that push themselves while they go on, and runs that go on from what was pushed."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from singlelife.errors import RunError
from singlelife.pretraining.arguments import parse_arguments
from singlelife.pretraining.hub.outbox import Outbox, PushJob
from singlelife.pretraining.pretrain import pretrain
from singlelife.pretraining.run_folder import RunFolder, read_metrics

from ..hub_server import READER, STRANGER, USERS, WRITER, Break, Trouble

ROOT = Path(__file__).parents[2]
TRAIN = """
from accelerate.state import AcceleratorState
from singlelife.pretraining.arguments import parse_arguments
from singlelife.pretraining.pretrain import pretrain
AcceleratorState._reset_state(reset_partial_state=True)
result = pretrain(parse_arguments(words))
"""
COMMAND = """
from singlelife.cli import main
result = main(words)
"""
UNSETTLED = {"pairs_per_second", "data_wait", "mfu"}


def lines(folder: Path) -> list[dict]:
    """The metrics, but for how fast the machine was."""
    return [
        {name: value for name, value in line.items() if name not in UNSETTLED}
        for line in read_metrics(folder / "metrics.jsonl")
    ]


def files(repository, branch="main"):
    return set(repository.commits[repository.branches[branch]]) - {".gitattributes"}


def is_whole(hub, repository, folder: Path) -> bool:
    """Whether a repository has a finished run's model, and the state that it was finished in."""
    weights = (folder / "model.safetensors").read_bytes() == hub.read(repository, "model.safetensors")
    steps = {name.split("/")[0] for name in files(repository, "training-state") if "/" in name}
    return weights and steps == {"checkpoint-12"} and "reconstruction.png" in files(repository)


# Pushing as the run goes on.


def test_a_run_pushes_itself_and_is_not_changed_by_it(hub, hub_client, command, whole_run, tmp_path):
    folder = tmp_path / "run"
    answer = hub_client.ask(TRAIN, words=command(folder, "--push-to-hub", push_steps=4))
    assert answer.error is None and answer.result == 0, answer
    repository = hub.repositories["model", "ann/singlelife-my-pan"]
    assert repository.private and is_whole(hub, repository, folder)
    assert f"Pushed to {hub.url}/ann/singlelife-my-pan (private), after step 12" in answer.said
    assert lines(folder) == lines(whole_run)
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole_run.iterdir()}
    assert "push_to_hub" not in (folder / "config.yaml").read_text()


def test_names_and_flags_of_the_repository(hub, hub_client, command, tmp_path):
    words = command(tmp_path / "run", "--public", "--no-push-training-state", push_to_hub="lives/pan", max_steps=4)
    answer = hub_client.ask(TRAIN, words=words)
    assert answer.error is None and answer.result == 0, answer
    repository = hub.repositories["model", "lives/pan"]
    assert not repository.private and list(repository.branches) == ["main"]
    answer = hub_client.ask(
        TRAIN, words=command(tmp_path / "two", "--push-to-hub", hub_org="lives", max_steps=2, push_wait=60)
    )
    assert answer.error is None and ("model", "lives/singlelife-my-pan") in hub.repositories


@pytest.mark.parametrize(
    ("token", "repo", "message"),
    [
        (None, "ann/pan", "log in with `hf auth login` or set HF_TOKEN"),
        ("hf_wrong", "ann/pan", "does not accept your token"),
        (READER, "ann/pan", "your token may not do that"),
        (READER, "ann/mine", "needs a token with write access, and yours only reads"),
        (STRANGER, "ann/pan", "Take one with write access to ann"),
        (STRANGER, "ann/open", "your token may not do that"),
        (WRITER, "nobody/pan", "There is no user or organisation nobody"),
        (WRITER, "ann/other", "holds a model of the life wt_3, not of my_pan"),
        (WRITER, "ann/open", "is there already and is public, not private as asked"),
    ],
)
def test_what_cannot_be_pushed_to_is_said_before_the_training(
    hub, hub_client, command, tmp_path, token, repo, message
):
    hub.create("ann/open", "model")
    hub.create("ann/mine", "model", private=True)
    card = b"---\nsinglelife:\n  life: wt_3\n---\n# A walk\n"
    hub.put(hub.create("ann/other", "model", private=True), {"README.md": card})
    flags = ["--public"] if token == STRANGER and repo == "ann/open" else []
    answer = hub_client.ask(TRAIN, token, words=command(tmp_path / "run", *flags, push_to_hub=repo))
    assert answer.error is not None and answer.error[0] == "HubError", answer
    assert message in answer.error[1] and not (tmp_path / "run").exists()


def test_offline_and_pushing_do_not_go_together(command, tmp_path):
    with pytest.raises(Exception, match="HF_HUB_OFFLINE says not to ask it"):  # as tests/conftest.py has set it
        pretrain(parse_arguments(command(tmp_path / "run", "--push-to-hub")))
    for flag in ("--public", "--push-steps=5"):
        with pytest.raises(RunError, match="nothing is pushed without --push-to-hub"):
            parse_arguments(command(tmp_path / "run", flag))
    with pytest.raises(RunError, match="--push-steps should be at least 1, not 0"):
        parse_arguments(command(tmp_path / "run", "--push-to-hub", "--push-steps=0"))


def test_a_dead_hub_does_not_stop_a_run_and_push_finishes_it_later(hub, hub_client, command, whole_run, tmp_path):
    folder = tmp_path / "run"
    hub.dead = True
    answer = hub_client.ask(TRAIN, words=command(folder, "--push-to-hub", push_steps=4, push_wait=3))
    assert answer.error is None and answer.result == 0, answer
    assert "Warning: " in answer.said and "The run starts all the same" in answer.said
    assert "NOT PUSHED to the Hub: " in answer.said and "The run is whole in" in answer.said
    assert lines(folder) == lines(whole_run) and not (folder / ".push").exists()
    (line,) = [line for line in answer.said.splitlines() if line.strip().startswith("singlelife push ")]
    hub.dead = False
    answer = hub_client.ask(COMMAND, words=[*line.split()[1:], "--training-state"])
    assert answer.result == 0, answer
    assert is_whole(hub, hub.repositories["model", "ann/singlelife-my-pan"], folder)


@pytest.mark.parametrize(
    "trouble",
    [
        Break("GET", "/api/", after=0),  # at the start
        Trouble("POST", "/commit/training-state", 429, retry_after=1, times=2),
        Trouble("POST", "/commit/main", 503),
        Break("PUT", "/lfs/", after=20_000, times=3),
    ],
    ids=str,
)
def test_a_push_is_tried_again_as_the_run_goes_on(hub, hub_client, command, tmp_path, trouble):
    (hub.troubles if isinstance(trouble, Trouble) else hub.breaks).append(trouble)
    answer = hub_client.ask(TRAIN, words=command(tmp_path / "run", push_to_hub="ann/pan", push_wait=100))
    assert answer.error is None and answer.result == 0, answer
    assert trouble.times <= 0
    assert is_whole(hub, hub.repositories["model", "ann/pan"], tmp_path / "run")
    assert "NOT PUSHED" not in answer.said


def test_a_token_that_is_taken_away_meanwhile_is_said_at_the_end(hub, hub_client, command, tmp_path):
    hub.troubles.append(Trouble("POST", "/preupload/", 403, times=1000))
    answer = hub_client.ask(TRAIN, words=command(tmp_path / "run", push_to_hub="ann/pan", push_wait=100))
    assert answer.error is None and answer.result == 0, answer
    assert "NOT PUSHED to the Hub: Pushing to ann/pan failed: your token may not do that" in answer.said
    assert f"singlelife push {tmp_path / 'run'} ann/pan" in answer.said


def test_a_stop_does_not_wait_for_a_hub_that_is_dead(hub, hub_environment, command, tmp_path):
    hub.dead = True
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "train.py", *command(folder, max_steps=100_000, push_to_hub="ann/pan", push_wait=2)],
        cwd=ROOT, env=hub_environment | {"HF_TOKEN": WRITER}, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while not RunFolder(folder).checkpoints():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "Go on with the same command and --resume" in out and "NOT PUSHED" in out
    assert f"singlelife push {folder} ann/pan --training-state" in out
    workers = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(folder) not in workers  # nothing is left behind


def test_a_run_that_fails_pushes_what_it_saved(hub, hub_client, command, tmp_path):
    diverging = {"learning_rate": 1e30, "warmup_steps": 0, "max_grad_norm": 0, "save_steps": 1, "max_skipped_steps": 3}
    answer = hub_client.ask(TRAIN, words=command(tmp_path / "run", push_to_hub="ann/pan", **diverging))
    assert answer.error[0] == "RunError" and "in a row" in answer.error[1]
    repository = hub.repositories["model", "ann/pan"]
    weights = (tmp_path / "run" / "checkpoint-1" / "model.safetensors").read_bytes()
    assert hub.read(repository, "model.safetensors") == weights
    assert "after step 1." in answer.said


# What waits to be pushed.


def test_what_waits_outlives_its_checkpoint_and_gives_way_to_the_newest(whole_run):
    folder, outbox = RunFolder(whole_run), Outbox(whole_run)

    def waiting() -> list[int]:
        return [snapshot.step for snapshot in outbox.snapshots()]

    outbox.open(PushJob("ann/pan", None, True, True))
    weights = (folder.checkpoint_path(12) / "model.safetensors").read_bytes()
    for step in (8, 12):
        outbox.put(step, folder.checkpoint_path(step))
        assert waiting() == [step]
    taken = outbox.take()
    assert taken is not None and taken.step == 12
    shutil.rmtree(folder.checkpoint_path(12))
    assert (taken.path / "checkpoint-12" / "model.safetensors").read_bytes() == weights
    outbox.put(12, folder.checkpoint_path(8))
    assert waiting() == [12, 12]  # what is being pushed stays
    outbox.put(16, folder.checkpoint_path(8))
    assert waiting() == [12, 16]
    outbox.drop(taken)
    outbox.give_back()
    assert waiting() == [16]
    outbox.open(PushJob("ann/pan", None, True, True))
    assert waiting() == [] and outbox.job.repo_id == "ann/pan"


# Going on from the Hub.


def push_state(client, run: Path, repo: str = "ann/singlelife-my-pan") -> None:
    assert client(COMMAND, words=["push", str(run), repo, "--training-state"]) == 0


def test_a_run_goes_on_elsewhere_as_if_it_had_never_stopped(hub, hub_client, command, whole_run, broken_off_run):
    push_state(hub_client, broken_off_run)
    elsewhere = broken_off_run.with_name("elsewhere")
    answer = hub_client.ask(TRAIN, words=command(elsewhere, "--resume=hub", "--push-to-hub"))
    assert answer.error is None and answer.result == 0, answer
    assert "Going on from step 8 of ann/singlelife-my-pan on the Hub" in answer.said
    assert lines(elsewhere) == lines(whole_run)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (elsewhere, whole_run))
    assert all((tensor == theirs[name]).all() for name, tensor in ours.items())
    assert list(RunFolder(elsewhere).checkpoints()) == [8, 12]
    assert {path.name for path in elsewhere.iterdir()} == {path.name for path in whole_run.iterdir()}
    assert is_whole(hub, hub.repositories["model", "ann/singlelife-my-pan"], elsewhere)


def test_of_several_processes_one_pushes_and_all_go_on_from_the_hub(
    hub, hub_client, hub_environment, command, whole_run, broken_off_run
):
    push_state(hub_client, broken_off_run, "ann/pan")
    elsewhere = broken_off_run.with_name("elsewhere")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train.py"]
    hub.requests.clear()
    ran = subprocess.run(
        [*launch, *command(elsewhere, "--resume=hub", push_to_hub="ann/pan", push_wait=100)], cwd=ROOT, text=True,
        capture_output=True, timeout=200,
        env=hub_environment | {"HF_TOKEN": WRITER, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    one, two = ([line["loss"] for line in lines(folder) if "loss" in line] for folder in (whole_run, elsewhere))
    assert two == pytest.approx(one, abs=1e-4)
    assert is_whole(hub, hub.repositories["model", "ann/pan"], elsewhere)
    assert len([path for method, path, _ in hub.requests if path.endswith("/whoami-v2")]) == 1  # the main one asked
    assert ran.stdout.count("Pushed to ") == 1 and not (elsewhere / ".from-hub").exists()


def test_a_newer_checkpoint_here_is_preferred(hub, hub_client, command, whole_run, broken_off_run):
    push_state(hub_client, broken_off_run)
    copy = shutil.copytree(whole_run, whole_run.with_name("newer"))
    hub.requests.clear()
    answer = hub_client.ask(TRAIN, words=command(copy, "--resume=hub:ann/singlelife-my-pan"))
    assert answer.error is None and answer.result == 0, answer
    assert not [path for _, path, _ in hub.requests if "/resolve/" in path]
    assert lines(copy) == lines(whole_run)


def test_another_run_on_the_hub_is_refused_and_not_taken_in(hub, hub_client, command, broken_off_run):
    push_state(hub_client, broken_off_run)
    elsewhere = broken_off_run.with_name("elsewhere")
    answer = hub_client.ask(TRAIN, words=command(elsewhere, "--resume=hub:ann/singlelife-my-pan", seed=1))
    assert answer.error[0] == "RunError" and "seed was 0, now 1" in answer.error[1]
    assert not RunFolder(elsewhere).holds_a_run()


def test_where_there_is_nothing_to_go_on_from(hub, hub_client, command, broken_off_run):
    folder = broken_off_run.with_name("new")
    answer = hub_client.ask(TRAIN, words=command(folder, "--resume=hub:ann/pan", max_steps=2))
    assert answer.error[0] == "HubError" and "There is no model ann/pan on the Hub" in answer.error[1]
    answer = hub_client.ask(TRAIN, words=command(folder, "--resume=hub", push_to_hub="ann/pan", max_steps=2))
    assert answer.result == 0 and "the run folder has no checkpoint yet" in answer.said  # a job's first start
    hub.dead = True
    answer = hub_client.ask(TRAIN, words=command(folder.with_name("third"), "--resume=hub:ann/pan", max_steps=2))
    assert answer.error[0] == "HubUnreachable" and not folder.with_name("third").exists()
    answer = hub_client.ask(TRAIN, words=command(broken_off_run, "--resume=hub:ann/pan"))
    assert answer.result == 0 and "Going on from the checkpoint of step 8 that is here" in answer.said


def test_what_no_push_puts_on_the_hub_is_not_fetched(hub, hub_client, command, broken_off_run):
    push_state(hub_client, broken_off_run)
    repository = hub.repositories["model", "ann/singlelife-my-pan"]
    hub.put(repository, {"checkpoint-8/../../evil.py": b"import os"}, "training-state")
    answer = hub_client.ask(
        TRAIN, words=command(broken_off_run.with_name("elsewhere"), "--resume=hub:ann/singlelife-my-pan")
    )
    assert answer.error[0] == "HubError" and "which no push puts there" in answer.error[1]


# The token.


def test_the_token_is_written_nowhere(hub, hub_environment, command, whole_run, tmp_path):
    """Not into the run folder, the tracker's files, the repository, what is said, or the pushing process's log."""
    folder, environment = tmp_path / "run", hub_environment | {"HF_TOKEN": WRITER, "HF_DEBUG": "1"}
    flags = {"push_to_hub": "ann/pan", "push_steps": 4, "push_wait": 60, "report_to": "tensorboard"}
    hub.troubles.append(Trouble("POST", "/preupload/", 403, times=1))  # errors are said with what was asked
    outbox = Outbox(whole_run)
    outbox.open(PushJob("ann/pan", None, True, True))
    outbox.put(12, whole_run / "checkpoint-12")
    said = []
    for words in (
        ["train.py", *command(folder, "--resume=hub", **flags)],
        ["-m", "singlelife.cli", "push", str(folder), "ann/pan", "--training-state"],
        ["-m", "singlelife.pretraining.hub.worker", str(whole_run)],
        ["-m", "singlelife.cli", "hub", "list", "--org", "ann"],
    ):
        if "worker" in words[1]:
            hub.troubles.append(Trouble("POST", "/commit/", 500))
        ran = subprocess.run(
            [sys.executable, *words], cwd=ROOT, text=True, capture_output=True, timeout=200, env=environment
        )
        assert ran.returncode == 0, ran.stderr
        said += [ran.stdout, ran.stderr]
    assert "Trying again in" in said[4]  # of the process that pushes
    assert any("curl" in text for text in said)  # HF_DEBUG shows requests
    assert list(folder.rglob("events.out.tfevents*"))
    assert is_whole(hub, hub.repositories["model", "ann/pan"], folder)
    written = [file for place in (hub.folder, tmp_path) for file in place.rglob("*") if file.is_file()]
    for token in USERS:
        assert not [file for file in written if token.encode() in file.read_bytes()]
        assert not [text for text in said if token in text]
