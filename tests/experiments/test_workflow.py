"""The workflow: what it plans, and a miniature of it from lives to a page."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from .conftest import FOLDER

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def snakemake(folder: Path, *more: str) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "snakemake", "--snakefile", str(FOLDER / "Snakefile"), *more]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("config", "planned"),
    [
        ("config.yaml", {"prepare": 14, "train": 88, "cas": 96, "evaluate": 180, "report": 1}),
        ("paper.yaml", {"prepare": 25, "train": 82, "cas": 86, "evaluate": 204, "report": 1}),
    ],
)
def test_both_studies_can_be_planned(config, planned, tmp_path, monkeypatch):
    monkeypatch.setenv("SINGLELIFE_RECORDINGS", str(tmp_path / "none"))
    plan = snakemake(tmp_path, "--configfile", str(FOLDER / config), "--cores", "2", "--dry-run", "--printshellcmds")
    assert plan.returncode == 0, plan.stderr + plan.stdout
    output = plan.stdout + plan.stderr
    table = output.partition("Job stats:")[2].partition("total")[0]
    assert {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)} == planned
    outputs = re.findall(r"^ +output: (.*)$", output, re.MULTILINE)
    assert not any("/runs/" in each for each in outputs)  # Snakemake would delete what a killed training has done
    assert output.count("--resume >>") == planned["train"]
    assert ("wt_1, wt_2" in plan.stderr) == (config == "paper.yaml")  # the missing recordings
    assert not (tmp_path / "results").exists()
    hours = r"[\d,.]+ h of recordings: [\d,.]+ h to prepare.* {} trainings of [\d,]+ steps"
    assert re.search(hours.format(planned["train"]), plan.stderr)


@pytest.mark.skipif(not find_spec("snakemake_executor_plugin_slurm"), reason="no executor plugin for SLURM")
@pytest.mark.slow
def test_the_profile_of_slurm_asks_for_gpus(tmp_path):
    profile, config = FOLDER / "profiles" / "slurm", FOLDER / "paper.yaml"
    plan = snakemake(tmp_path, "--profile", str(profile), "--configfile", str(config), "--dry-run")
    assert plan.returncode == 0, plan.stderr + plan.stdout
    training = (plan.stdout + plan.stderr).partition("rule train:")[2].partition("\n\n")[0]
    assert "gpu=8" in training and "runtime=1440" in training and "slurm_partition=gpu" in training


@pytest.mark.slow
def test_from_lives_to_a_page_and_nothing_twice(sim_test, sim_still, micro_model, micro_checkpoint, tmp_path):
    """A study of two lives, with every kind of job."""
    walk, still = sim_test.path, sim_still.path
    miniature = {
        "title": "A miniature",
        "about": "Micro-models.",
        "output": "out",
        "singlelife": f"{sys.executable} -m singlelife.cli",
        "train": {
            "model": str(micro_model), "max_steps": 3, "train_batch_size": 8, "eval_pairs": 8, "warmup_steps": 1,
            "dataloader_num_workers": 0, "mixed_precision": "no", "attention": "sdpa", "max_gap": 0.4,
            "save_total_limit": 1,
        },
        "models": [{"life": [str(walk), str(still)]}],
        "scores": {
            "agreement": {
                "models": ["*"], "reference": str(micro_checkpoint), "pairs": str(walk), "num_pairs": 8
            },
        },
        "evaluations": {
            "correspondence": {
                "task": "correspondence", "models": [f"{walk.name}_s0"], "data": str(walk), "num_pairs": 4,
                "baselines": False,
            },
        },
        "questions": {
            "controls": {
                "ask": "Do walks agree?", "finding": "They do.", "metrics": ["raw"],
                "sets": {"walk": [f"{walk.name}_s0"], "still": [f"{still.name}_s0"]},
                "claims": [{"metric": "raw", "more": "walk", "than": ["still"]}],
            },
        },
    }  # fmt: skip

    (tmp_path / "mini.yaml").write_text(yaml.safe_dump(miniature, sort_keys=False))
    flags = ("--configfile", "mini.yaml", "--cores", "2")
    made = snakemake(tmp_path, *flags)
    assert made.returncode == 0, made.stderr + made.stdout
    assert len(list((tmp_path / "out" / "runs").glob("*/model.safetensors"))) == 2
    assert "# A miniature" in (tmp_path / "out" / "results.md").read_text()
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert {row["task"] for row in rows} == {"cas", "correspondence"}
    again = snakemake(tmp_path, *flags, "--dry-run")
    assert "Nothing to be done" in again.stdout + again.stderr
