"""Job files that a shell takes and that train, and jobs that the Hub is asked for."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType

from singlelife.cli import main
from singlelife.files import config_names, hub_configs
from singlelife.pretraining.run_folder import RunFolder, read_metrics

from ..hub_jobs_server import TOKEN, USER, JobsHub

TINY = [
    "--train-batch-size=8",
    "--eval-pairs=8",
    "--dataloader-num-workers=0",
    "--mixed-precision=no",
    "--max-gap=0.4",
]
PROCESSES = {"cpu": 1, "single_gpu": 1, "ddp_8gpu": 8, "fsdp2_8gpu": 8, "multi_node_2x8": 16}


@pytest.fixture
def lives(sim_test, sim_still) -> list[str]:
    return [str(sim_test.path), str(sim_still.path)]


def written(folder: Path, executor: str, lives: list[str], *flags: str, options: tuple[str, ...] = ()) -> Path:
    words = ["train-all", "--lives", *lives, "--executor", executor, "--output", str(folder), *options, "--", *flags]
    assert main(words) == 0
    (path,) = folder.iterdir()
    assert subprocess.run(["bash", "-n", path], capture_output=True, text=True).stderr == ""
    return path


def environment(**changes: str) -> dict[str, str]:
    """That of a job: `accelerate`, `hf` and the package are found, whatever the working folder."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"} | changes


def as_task(number: int, **changes: str) -> dict[str, str]:
    return environment(SLURM_ARRAY_TASK_ID=str(number), SLURM_ARRAY_JOB_ID="17", **changes)


def test_a_file_per_job_of_a_slurm_array(tmp_path: Path, lives, micro_model, capsys):
    flags = [f"--model={micro_model}", "--max-steps=2", *TINY]
    path = written(tmp_path / "jobs", "slurm", lives, *flags, options=("--gpus=0", "--sbatch=--partition=night owl"))
    assert f"Start with: sbatch {path}" in capsys.readouterr().out
    text = path.read_text()
    assert all(life in text for life in lives)
    directives = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    for line in ("--array=0-1", "--signal=B:USR1@300", "--requeue", "--time=24:00:00", "--partition=night owl"):
        assert f"#SBATCH {line}" in directives
    assert not any("gpus" in line for line in directives)

    ran = subprocess.run(["bash", path], cwd=tmp_path, env=as_task(1), capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stderr
    assert [line["step"] for line in read_metrics(tmp_path / "runs" / "sim_still" / "metrics.jsonl")][-1] == 2
    assert (tmp_path / "runs" / "sim_still" / "model.safetensors").exists()
    assert not (tmp_path / "runs" / "sim_test").exists()
    beyond = subprocess.run(["bash", path], cwd=tmp_path, env=as_task(2), capture_output=True, text=True)
    assert beyond.returncode != 0 and "no life of this number" in beyond.stderr


def test_a_task_saves_before_its_limit_and_is_queued_again(tmp_path: Path, lives, micro_model):
    flags = [f"--model={micro_model}", "--max-steps=100000", "--logging-steps=1", "--save-steps=99999", *TINY]
    path = written(tmp_path / "jobs", "slurm", lives[:1], *flags, options=("--gpus=0",))
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {tmp_path / "asked"}\n')
    scontrol.chmod(0o755)
    run = RunFolder(tmp_path / "runs" / "sim_test")
    known = as_task(0)
    task = subprocess.Popen(
        ["bash", path], cwd=tmp_path, env=known | {"PATH": f"{scontrol.parent}{os.pathsep}{known['PATH']}"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while not run.metrics.exists() or not read_metrics(run.metrics):
        assert task.poll() is None, task.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    task.send_signal(signal.SIGUSR1)  # SLURM signals the script alone
    out, _ = task.communicate(timeout=60)
    (step,) = run.checkpoints()
    assert 0 < step < 99999
    assert "Stopped by SIGUSR1" in out and "queued again" in out
    assert (tmp_path / "asked").read_text() == "requeue 17_0\n"


def test_lives_one_after_another_and_what_fails_is_said(tmp_path: Path, lives, micro_model):
    flags = [f"--model={micro_model}", "--max-steps=2", *TINY]
    path = written(tmp_path / "jobs", "shell", lives, *flags, options=("--gpus=0",))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "sim_test").write_text("in the way")
    ran = subprocess.run(["bash", path], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=200)
    assert ran.returncode == 1
    assert f"These lives failed: {lives[0]}\n" in ran.stderr
    assert (tmp_path / "runs" / "sim_still" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sim_99"], "no life 'sim_99'. Did you mean"),
        (["nothing_*"], "No registered life matches 'nothing_*'"),
        (["wt_3"], "has no video here"),
        (["sim_1", "--executor=hf-jobs", "--", "--seeed=1"], "Did you mean --seed"),
        (["sim_1", "--", "--resume"], "--resume is not to be passed on"),
        (["sim_1", "--", "--output_dir=x"], "not to be passed on"),
        (["wt_3", "--executor=hf-jobs"], "push-life wt_3 ORG/NAME"),
        (["ann/day", "bob/day"], "ann/day and bob/day would both be trained in runs/day"),
        (["sim_1", "--gpus=-1"], "--gpus should be 0 or more"),
    ],
)
def test_what_no_job_could_do_is_said_at_once(tmp_path: Path, capsys, words, message):
    assert main(["train-all", "--output", str(tmp_path / "jobs"), "--lives", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "jobs").exists()


def test_globs_stand_for_registered_lives_and_a_dry_run_writes_nothing(tmp_path: Path, capsys):
    words = ["--lives", "sim_[1-3]", "sim_2", "--executor=slurm", "--gpus=8", "--dry-run", "--", "--seed", "3"]
    assert main(["train-all", "--output", str(tmp_path / "jobs"), *words]) == 0
    out = capsys.readouterr().out
    assert "LIVES=(sim_1 sim_2 sim_3)" in out and "#SBATCH --array=0-2" in out and "FLAGS=(--seed 3)" in out
    assert "#SBATCH --gpus-per-node=8" in out and "--multi_gpu --num_processes=8" in out
    assert not (tmp_path / "jobs").exists()


@pytest.fixture
def jobs_hub() -> Iterator[JobsHub]:
    hub = JobsHub()
    stop = hub.start()
    yield hub
    stop()


def of_hub(hub: JobsHub, home: Path, token: str | None = TOKEN) -> dict[str, str]:
    kept = {name: value for name, value in environment().items() if not name.startswith("HF_")}
    return kept | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home)} | ({"HF_TOKEN": token} if token else {})


def submit(hub: JobsHub, home: Path, *words: str, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "singlelife.cli", "train-all", "--executor=hf-jobs", "--submit", *words]
    return subprocess.run(command, cwd=home, env=of_hub(hub, home, token), capture_output=True, text=True, timeout=100)


def test_hugging_face_jobs_are_started_with_the_token_as_a_secret(tmp_path: Path, jobs_hub: JobsHub):
    lives, flags = ["sim_1", "ann/day"], ["--seed", "3"]
    ran = submit(jobs_hub, tmp_path, "--flavor=a100-large", "--timeout=2h", "--lives", *lives, "--", *flags)
    assert ran.returncode == 0, ran.stderr
    assert f"sim_1: {jobs_hub.url}/jobs/{USER}/job1" in ran.stdout
    for life, (namespace, job) in zip(lives, jobs_hub.jobs, strict=True):
        assert namespace == USER
        assert (job["flavor"], job["timeoutSeconds"]) == ("a100-large", 7200)
        assert job["command"][:2] == ["bash", "-c"] and "singlelife.cli train" in job["command"][2]
        assert job["command"][4:] == ["--life", life, "--push-to-hub", "--resume", "hub", *flags]
        assert job["secrets"] == {"HF_TOKEN": TOKEN}
        assert TOKEN not in str({name: value for name, value in job.items() if name != "secrets"})
    assert TOKEN not in ran.stdout + ran.stderr
    assert not any(TOKEN in file.read_text() for file in tmp_path.rglob("*") if file.is_file())


def test_the_written_file_starts_the_same_jobs(tmp_path: Path, jobs_hub: JobsHub):
    """Through the real `hf`, as a user would."""
    path = written(tmp_path / "jobs", "hf-jobs", ["sim_1"], "--seed", "3", options=("--namespace=lives",))
    assert TOKEN not in path.read_text()
    ran = subprocess.run(["bash", path], env=of_hub(jobs_hub, tmp_path), capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr
    (namespace, by_file), *_ = jobs_hub.jobs
    assert submit(jobs_hub, tmp_path, "--namespace=lives", "--lives", "sim_1", "--", "--seed", "3").returncode == 0
    other_namespace, submitted = jobs_hub.jobs[1]
    assert namespace == other_namespace == "lives"
    for job in (by_file, submitted):
        job.pop("labels", None)
    assert by_file == submitted


def test_jobs_that_the_hub_does_not_take_are_named(tmp_path: Path, jobs_hub: JobsHub):
    without = submit(jobs_hub, tmp_path, "--lives", "sim_1", token=None)
    assert without.returncode == 2 and "needs a token" in without.stderr
    wrong = submit(jobs_hub, tmp_path, "--lives", "sim_1", token="hf_wrong")
    assert wrong.returncode == 2 and "did not take the job of sim_1" in wrong.stderr
    assert "hf_wrong" not in wrong.stderr and "Traceback" not in wrong.stderr
    jobs_hub.takes = 1
    unpaid = submit(jobs_hub, tmp_path, "--lives", "sim_1", "sim_2", "sim_3")
    assert unpaid.returncode == 2
    assert "1 jobs were started; for the others: --lives sim_2 sim_3" in unpaid.stderr
    assert "402" in unpaid.stderr or "Payment" in unpaid.stderr or "credit" in unpaid.stderr


@pytest.mark.parametrize("name", config_names("accelerate"))
def test_accelerate_takes_the_shipped_configs(name: str):
    config = load_config_from_file(str(hub_configs() / "accelerate" / f"{name}.yaml"))
    assert config.num_processes == PROCESSES[name]
    assert config.num_machines == (2 if name.startswith("multi_node") else 1)
    assert config.use_cpu == (name == "cpu")
    if name.startswith("fsdp2"):
        assert config.distributed_type == DistributedType.FSDP and config.fsdp_config["fsdp_version"] == 2


def test_the_cpu_config_launches(tmp_path: Path, command):
    config = hub_configs() / "accelerate" / "cpu.yaml"
    words = ["accelerate", "launch", "--config_file", str(config), "-m", "singlelife.cli", "train"]
    ran = subprocess.run(
        [*words, *command(tmp_path / "run", max_steps=1)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("path", sorted((hub_configs() / "jobs").iterdir()), ids=lambda path: path.name)
def test_the_shipped_job_files_are_bash(path: Path):
    assert shutil.which("bash")
    assert subprocess.run(["bash", "-n", path], capture_output=True, text=True).stderr == ""
