"""A study's jobs: arrays that a shell takes and whose tasks are steps, and jobs of Hugging Face for its trainings."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from singlelife.cli import main
from singlelife.files import hub_configs


def environment(*folders: Path, **changes: str) -> dict[str, str]:
    found = os.pathsep.join([*map(str, folders), str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": found} | changes


def test_arrays_of_steps_that_wait_for_each_other(content, write, tmp_path, capsys):
    path, folder = write(content), tmp_path / "out"
    content["run"] |= {"sbatch": ["--partition=night owl"], "time": "01:00:00"}
    path = write(content)
    assert main(["study", str(path), "--output", str(folder), "--executor", "slurm"]) == 0
    assert "7 tasks" in capsys.readouterr().out
    jobs = folder / "jobs"
    submit = (jobs / "submit.sh").read_text()
    assert re.findall(r"dependency=afterany:\$(\w+)", submit) == ["prepare", "train", "measure"]
    for file in [*jobs.glob("*/*.sbatch"), jobs / "submit.sh"]:
        assert subprocess.run(["bash", "-n", file], capture_output=True, text=True).stderr == ""
    train = (jobs / "train" / "slurm_array.sbatch").read_text()
    assert "#SBATCH --array=0-6\n" in train and "#SBATCH --time=01:00:00\n" in train and "night owl" in train
    assert "life" not in train.replace("singlelife", "")

    task = ["bash", str(jobs / "prepare" / "slurm_array.sbatch")]
    done = subprocess.run(
        task, env=environment(SLURM_ARRAY_TASK_ID="0", SLURM_ARRAY_JOB_ID="17"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(folder.glob("prepare/*/step.json"))) == 1
    assert main(["study", str(path), "--output", str(folder), "--executor", "slurm"]) == 0
    assert (
        "#SBATCH --array=0-0\n" in (jobs / "prepare" / "slurm_array.sbatch").read_text()
    )  # what is done is not again


def test_a_job_of_hugging_face_for_each_training(content, write, tmp_path, capsys):
    content["train"]["model"] = "tiny"
    content["models"] = {"walks": {"life": "sim_1", "seed": [0, 1]}, "other": {"life": "sim_2"}}
    content["questions"], content["measures"] = {}, {}
    words = ["--output", str(tmp_path / "out"), "--executor", "hf-jobs"]
    assert main(["study", str(write(content)), *words]) == 2
    assert "add `hub: ORG`" in capsys.readouterr().err
    content["run"] |= {"hub": "me", "flavor": "a100-large"}
    assert main(["study", str(write(content)), *words]) == 0
    assert "taken from the Hub" in capsys.readouterr().out
    called = tmp_path / "called"
    tool = tmp_path / "bin" / "hf"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/bash\nprintf "%s " "$@" >> {called}\necho >> {called}\n')
    tool.chmod(0o700)
    file = tmp_path / "out" / "jobs" / "hf_jobs.sh"
    assert subprocess.run(["bash", file], env=environment(tool.parent), capture_output=True).returncode == 0
    jobs = called.read_text().splitlines()
    assert len(jobs) == 3
    for job, life, name in zip(jobs, ("sim_1", "sim_1", "sim_2"), ("sim-1-s0", "sim-1-s1", "sim-2-s0"), strict=True):
        assert job.startswith("jobs run --detach --secrets HF_TOKEN --flavor a100-large")
        assert f"--life {life} --push-to-hub me/singlelife-mini-{name} --resume hub" in job
        assert job.count("--life") == job.count("--push-to-hub") == job.count("--resume") == 1
        assert "--output-dir" not in job and "--keep-best=False" in job


def test_the_study_of_the_paper_is_planned_without_its_lives(tmp_path, capsys):
    paper = str(hub_configs() / "studies" / "paper.yaml")
    assert main(["study", paper, "--output", str(tmp_path), "--dry-run"]) == 0
    said = capsys.readouterr().out
    trainings, hours = re.search(r"the (\d+) trainings are .* ([\d,]+) GPU hours on H100", said).groups()
    assert int(trainings) == 65
    assert int(hours) == pytest.approx(65 * 159e9 * 100_000 * 256 / (0.4 * 989e12) / 3600, rel=0.02)
    assert main(["study", paper, "--output", str(tmp_path), "--executor", "slurm"]) == 2
    assert "These lives are not here: wt_1, " in capsys.readouterr().err


def test_the_shipped_studies_can_be_planned(tmp_path, capsys):
    for file in sorted((hub_configs() / "studies").glob("*.yaml")):
        assert main(["study", str(file), "--output", str(tmp_path), "--dry-run"]) == 0
    assert "train/sim_pooled_s3" in capsys.readouterr().out
