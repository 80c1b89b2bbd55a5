"""A miniature study from its file to its report: made once, stopped and gone on with, with a step that fails."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from singlelife.cli import main
from singlelife.errors import StudyError
from singlelife.files import config_names
from singlelife.pretraining.arguments import config_path
from singlelife.study.report import write_report
from singlelife.study.steps import _fingerprint, plan_study
from singlelife.study.study_file import read_study

from ..pretraining.conftest import write_clip


def study(*words: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "singlelife.cli", "study", *words], capture_output=True, text=True, **kwargs
    )


def only(content: dict, question: str) -> dict:
    """The same with one question, and the measures that it takes."""
    asked = content["questions"][question]
    measures = {name: content["measures"][name] for name in asked["measures"].values()}
    return content | {"questions": {question: asked}, "measures": measures}


def trainings(folder: Path) -> dict[str, float]:
    """When each finished model was written."""
    return {path.parent.name: path.stat().st_mtime for path in folder.glob("train/*/model.safetensors")}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_everything_once_and_a_report_of_it(content, write, tmp_path):
    path, folder = write(content), tmp_path / "out"
    made = study(str(path), "--output", str(folder))
    assert made.returncode == 0, made.stdout + made.stderr
    first = trainings(folder)
    assert len(first) == 7
    report = (folder / "report" / "results.md").read_text()
    for said in ("# A miniature", "How much life?", "Do walks agree?", "Does it transfer?", "CPU time", "the world."):
        assert said in report
    verdicts = {name: each["verdict"] for name, each in _fields(folder).items()}
    assert set(verdicts.values()) <= {"reproduced", "partly", "not reproduced", "undecided"}
    for picture in re.findall(r"\]\((images/\S+\.png)\)", report):
        assert (folder / "report" / picture).read_bytes().startswith(b"\x89PNG")
    page = (folder / "report" / "results.html").read_text()
    assert page.count("data:image/png;base64,") == report.count("](images/") == 4
    assert 'src="http' not in page and "<link" not in page

    again = study(str(path), "--output", str(folder))
    assert again.returncode == 0 and "singlelife train" not in again.stderr
    assert trainings(folder) == first
    assert not [path.name for path in folder.rglob(".*.partial")]


def _fields(folder: Path) -> dict:
    return json.loads((folder / "report" / "results.json").read_text())["questions"]


def test_a_killed_study_goes_on_from_the_checkpoint(content, write, tmp_path):
    content = only(content, "emergence")
    content["models"]["walks"] |= {"seed": 0, "hours": None, "max_steps": 1500, "save_steps": 20}
    content["models"]["still"]["seed"] = 0
    content["measures"]["agreement"]["models"] = ["walks"]
    content["questions"]["emergence"]["controls"] = {"untrained": ["untrained:tiny@1"]}
    path, folder = write(content), tmp_path / "out"
    plan = plan_study(read_study(path), folder)
    walk = plan.models["sim_test_micro_s0"]
    words = [sys.executable, "-m", "singlelife.cli", "study", str(path), "--output", str(folder), "--question"]
    process = subprocess.Popen([*words, "emergence"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait_for(lambda: any((folder / "train" / f".{Path(walk).name}.partial").glob("checkpoint-*")))
    process.kill()
    process.wait()

    made = study(str(path), "--output", str(folder), "--question", "emergence")
    while made.returncode == 2 and "still at work" in made.stderr:  # the training, which was told, is saving
        time.sleep(0.5)
        made = study(str(path), "--output", str(folder), "--question", "emergence")
    assert made.returncode == 0, made.stdout + made.stderr
    assert (folder / walk / "model.safetensors").is_file()
    log = (folder / "logs" / f"{walk.replace('/', '-')}.log").read_text()
    assert re.search(r"going on from +.*checkpoint-\d+", log)
    record = json.loads((folder / walk / "step.json").read_text())
    assert record["command"].startswith("OMP_NUM_THREADS=1 singlelife train --model") and record["cpu_seconds"] > 0
    assert not list((folder / "train").glob("*still*"))  # no question that was asked needs it
    assert _fields(folder)["emergence"]["rows"]


def test_an_interrupted_study_ends_its_steps_even_a_paused_one(content, write, tmp_path):
    content = only(content, "emergence")
    content["models"]["walks"] |= {"seed": 0, "hours": None, "max_steps": 100_000, "save_steps": 100_000}
    content["measures"]["agreement"]["models"] = ["walks"]
    content["questions"]["emergence"]["controls"] = {"untrained": ["untrained:tiny@1"]}
    path, folder = write(content), tmp_path / "out"
    walk = Path(plan_study(read_study(path), folder).models["sim_test_micro_s0"]).name
    partial = folder / "train" / f".{walk}.partial"
    words = [sys.executable, "-m", "singlelife.cli", "study", str(path), "--output", str(folder)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    _wait_for(lambda: (partial / "metrics.jsonl").is_file())
    (training,) = (child.pid for child in psutil.Process(process.pid).children() if str(partial) in child.cmdline())
    os.kill(training, signal.SIGSTOP)
    process.terminate()
    assert process.wait(timeout=100) == 130
    assert "a training saves a checkpoint first" in process.stderr.read()
    assert not psutil.pid_exists(training) and any(partial.glob("checkpoint-*"))
    assert json.loads((partial / "spent.json").read_text())["cpu_seconds"] > 0


def test_a_failed_step_fails_those_that_need_it_and_no_others(content, write, tmp_path):
    content = only(content, "emergence")
    content["models"]["walks"] |= {"seed": 0, "hours": None}
    content["models"]["still"] |= {"seed": 0, "min_gap": 50, "max_gap": 60}  # it has no two frames that far apart
    content["questions"]["emergence"]["controls"] = {"still": ["still"]}
    path, folder = write(content), tmp_path / "out"
    made = study(str(path), "--output", str(folder))
    assert made.returncode == 1, made.stdout + made.stderr
    assert len(trainings(folder)) == 2
    assert "1 step(s) failed, and 1 that need them were not made" in made.stdout
    assert "--min-gap" in made.stdout and "give the same command again" in made.stdout
    assert _fields(folder)["emergence"]["verdict"] == "not measured yet"
    assert "This is not all of it yet" in (folder / "report" / "results.md").read_text()


def test_a_dry_run_says_what_is_to_come_and_makes_nothing(content, write, tmp_path, capsys):
    path, folder = write(content), tmp_path / "out"
    assert main(["study", str(path), "--output", str(folder), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "24 steps: 0 done, 24 to do." in said
    assert "OMP_NUM_THREADS=1 singlelife prepare" in said and "timed here" in said and "2 side by side" in said
    assert not folder.exists()


@pytest.mark.parametrize("name", config_names("studies"))
def test_the_shipped_studies_can_be_planned_by_name(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SINGLELIFE_RECORDINGS", str(tmp_path / "recordings"))
    monkeypatch.chdir(tmp_path)
    assert main(["study", name, "--dry-run"]) == 0
    assert ": 0 done" in capsys.readouterr().out
    report = write_report(study := read_study(config_path("studies", name)), plan_study(study, tmp_path), tmp_path)
    text = (report / "results.md").read_text()
    assert (
        f"singlelife study {name}\n" in text
        and "not measured yet" in text
        and str(config_path("studies", name)) not in text
    )


def test_steps_are_kept_by_all_that_their_output_depends_on(content, write, tmp_path):
    def keys(**train) -> dict[str, str]:
        plan = plan_study(read_study(write(content | {"train": content["train"] | train})), tmp_path)
        return {step.label: step.key for step in plan.steps.values()}

    before = keys()
    assert keys() == before
    assert keys(cpu_threads=1, save_steps=3, logging_steps=1) == before  # what changes no loss changes no step
    changed = keys(warmup_steps=2)
    same = {label for label, key in changed.items() if before[label] == key}
    assert same == {label for label in before if label.startswith("/")}  # the lives, and nothing after them
    model = Path(content["train"]["model"])
    other = model.with_name("other.yaml")
    other.write_text(model.read_text().replace("mask_ratio: 0.75", "mask_ratio: 0.7"))
    changed = {step.label for step in plan_study(read_study(write(content | {"train": content["train"] | {
        "model": str(other)}})), tmp_path).steps.values() if step.key in before.values()}  # fmt: skip
    assert changed == same


def test_two_sets_with_the_same_settings_are_one_model(content, write, tmp_path):
    content["models"]["again"] = dict(content["models"]["other"])
    content["models"]["once_more"] = {"life": content["models"]["walks"]["life"], "seed": [1, 2]}
    plan = plan_study(read_study(write(content)), tmp_path)
    assert sum(step.kind == "train" for step in plan.steps.values()) == 8


def test_models_of_other_settings_are_told_apart(content, write, tmp_path):
    content["models"]["longer"] = content["models"]["walks"] | {"hours": None, "seed": 0, "max_steps": 6}
    plan = plan_study(read_study(write(content)), tmp_path)
    assert plan.models["sim_test_micro_s0"] != plan.models["sim_test_micro_s0_longer"]
    assert sum(step.kind == "train" for step in plan.steps.values()) == 8


def test_a_recording_of_ones_own_counts_by_its_contents(content, write, tmp_path):
    video = write_clip(tmp_path / "day.mp4", seconds=4)
    content["models"]["mine"] = {"life": "my_day", "video": [str(video)]}

    def steps() -> set[str]:
        _fingerprint.cache_clear()
        plan = plan_study(read_study(write(content)), tmp_path)
        training = plan.steps[plan.models["my_day_micro_s0"]]
        (life,) = training.inputs
        assert plan.steps[life].words == ("prepare", "my_day", "--video", str(video))
        return {training.key, plan.steps[life].key}

    first = steps()
    assert steps() == first
    write_clip(video, seconds=5)
    assert not steps() & first


def change(content: dict, path: str, value) -> None:
    *folders, last = path.split(".")
    for name in folders:
        content = content[name]
    content[last] = value


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("model", {}, r"'model' is not known; did you mean 'models'"),
        ("models.walks", {"seed": 1}, r"models, walks: has no life"),
        ("models.walks.seed", [], r"models, walks: seed is an empty list"),
        ("models.walks.output_dir", "x", r"models, walks: output_dir is the study's own"),
        ("models", 5, r"models: should be a mapping"),
        ("measures.agreement.command", "cas", r"measures, agreement: command should be one of align"),
        ("measures.agreement.models", ["walk"], r"no set of models 'walk'; did you mean 'walks'"),
        ("measures.agreement.models", [{"from": "walks", "seed": 7}], r"set 'walks' has \{'seed': 7\}"),
        ("measures.agreement.against", "walks", r"align with `each` takes one model `against`"),
        ("measures.agreement.models", ["walks", "other"], r"is both compared and what is compared with"),
        ("measures.groups.groups", {"others": ["other"]}, r"is in a group, and not among the models"),
        ("measures.depth.json", "x", r"measures, depth: json is the study's own"),
        ("questions.emergence.analysis", "guess", r"analysis should be one of curve"),
        ("questions.emergence.measures", {}, r"needs the measures agreement"),
        ("questions.emergence.measures", {"agreement": "nothing"}, r"there is no measure 'nothing'"),
        ("questions.emergence.modles", [], r"'modles' is not known; did you mean 'models'"),
        ("run.threads", 0, r"side_by_side and threads should be 1 or more"),
        ("run.threads", "two", r"threads should be of type int"),
        ("run.executor", "cloud", r"executor should be one of local"),
    ],
)  # fmt: skip
def test_mistakes_in_a_file_are_named(content, write, where, value, message):
    change(content, where, value)
    with pytest.raises(StudyError, match=rf"mini\.yaml.*{message}"):
        read_study(write(content))


def test_a_wrong_flag_of_a_training_is_named_with_its_model(content, write, tmp_path, capsys):
    content["models"]["walks"]["warmup_stops"] = 1
    assert main(["study", str(write(content)), "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "the model sim_test_0.004h_micro_s0" in said and "--warmup-steps" in said


def test_unknown_questions_and_steps_are_refused(content, write, tmp_path, capsys):
    words = ["study", str(write(content)), "--output", str(tmp_path)]
    assert main([*words, "--question", "why"]) == 2
    assert "there are emergence, groups, transfer" in capsys.readouterr().err
    assert main([*words, "--only", "train/x"]) == 2
    assert "--dry-run names them all" in capsys.readouterr().err


def test_only_one_step_and_only_once_what_it_needs_is_there(content, write, tmp_path):
    path, folder = write(content), tmp_path / "out"
    plan = plan_study(read_study(path), folder)
    training = plan.models["sim_test_micro_s0"]
    early = study(str(path), "--output", str(folder), "--only", training)
    assert early.returncode == 1 and "0 step(s) failed, and 1 that need them" in early.stdout
    (life,) = plan.steps[training].inputs
    assert study(str(path), "--output", str(folder), "--only", life).returncode == 0
    assert study(str(path), "--output", str(folder), "--only", training).returncode == 0
    assert len(trainings(folder)) == 1 and not (folder / "report").exists()


def _wait_for(true, seconds: float = 100) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
