"""A study for those who run jobs: SLURM, or Hugging Face Jobs.

SLURM gets an array for each stage, of which each task is one step (`singlelife study FILE --only STEP`) that writes
into the study's folder on a disk that all nodes see, and a script that submits them with what waits for what. A job of
Hugging Face loses its disk: there the trainings alone are jobs, which push their models; the study goes on from those.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from singlelife.errors import LifeError, StudyError
from singlelife.lives.registry import registered_life
from singlelife.lives.resolve import life_reference
from singlelife.pretraining.jobs import Resources, job_file, write_job_file
from singlelife.pretraining.run_folder import write_text
from singlelife.study.runner import record_of
from singlelife.study.steps import OUT, Plan, Step, is_here
from singlelife.study.study_file import Run, Study

JOBS = "jobs"  # the folder, within the study's
_STAGES = {"prepare": ("prepare",), "train": ("train",),
           "measure": ("align", "evaluate correspondence", "evaluate depth")}  # fmt: skip
_TRAIN = re.compile(r'"\$\{LAUNCH\[@\]\}" -m singlelife\.cli train --life "\$life" --resume "\$\{FLAGS\[@\]\}"')


def write_jobs(study: Study, plan: Plan, folder: Path, wanted: Sequence[str], cache_dir: Path | None) -> str:
    """Write the jobs of the steps that are not done; what to do next, for people.

    Raises:
        StudyError: a job could not get what it needs.
        RunError: a file cannot be written.
    """
    steps = [plan.steps[name] for name in plan.needed_by(wanted) if not record_of(folder, plan.steps[name])]
    if not steps:
        return "All steps are done: there is nothing to write jobs for."
    if study.run.executor == "slurm":
        absent = [step.label for step in steps if step.kind == "prepare" and not is_here(step)]
        if absent:
            raise StudyError(
                f"These lives are not here: {', '.join(absent)}. Steps are kept by what their lives hold, so write "
                "the jobs where the lives are. `singlelife lives show NAME` says how to get one; --dry-run needs none."
            )
        return _slurm(study, steps, folder, cache_dir)
    return _hf_jobs(study, [step for step in steps if step.kind == "train"], folder)


def _slurm(study: Study, steps: Sequence[Step], folder: Path, cache_dir: Path | None) -> str:
    words = ["singlelife", "study", str(study.path), "--output", str(folder), "--executor", "local"]
    words += ["--cache-dir", str(cache_dir)] if cache_dir else []
    submit = ["#!/bin/bash", "# Submits the study's stages, each to begin when the one before it has ended.", "set -e"]
    before, told = "", []
    for stage, kinds in _STAGES.items():
        names = [step.name for step in steps if step.kind in kinds]
        if not names:
            continue
        path = write_job_file(folder / JOBS / stage, "slurm", _array(study.run, stage, names, words))
        # afterany: what needs a step that failed says so itself, and the others go on.
        after = f" --dependency=afterany:${before}" if before else ""
        submit.append(f"{stage}=$(sbatch --parsable{after} {shlex.quote(str(path))})")
        before = stage
        told.append(f"  {path}: {len(names)} tasks")
    report = shlex.join([*words, "--report"])
    submit.append(f"sbatch --dependency=afterany:${before} --job-name=report --wrap={shlex.quote(report)}")
    script = folder / JOBS / "submit.sh"
    write_text(script, "\n".join(submit) + "\n")
    return "\n".join([*told, f"Submit all of them, where `singlelife` can be called: bash {script}",
                      "After a failure give this command again: it writes jobs for what is missing."])  # fmt: skip


def _array(run: Run, stage: str, names: Sequence[str], words: Sequence[str]) -> str:
    """The array of `train-all`, whose tasks are steps instead of lives."""
    resources = Resources(gpus=0 if stage == "prepare" else run.gpus, time=run.time, sbatch=run.sbatch)
    text = job_file("slurm", names, [], resources)
    text, count = _TRAIN.subn(lambda _: f'{shlex.join(words)} --only "$life"', text)
    assert count == 1, "the template starts one training"
    text = re.sub(r"^LAUNCH=.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^FLAGS=.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^# (One life|`singlelife train-all|Submit it).*\n", "", text, flags=re.MULTILINE)
    for old, new in (("LIVES", "STEPS"), ("$life", "$step"), ("life=${", "step=${"), ("no life of", "no step of")):
        text = text.replace(old, new)
    about = (
        "# One step of a study per task; written by `singlelife study --executor slurm`, which says how to submit.\n"
    )
    return text.replace("#!/bin/bash\n", f"#!/bin/bash\n{about}", 1).replace("=singlelife\n", f"={stage}\n", 1)


def _hf_jobs(study: Study, trainings: Sequence[Step], folder: Path) -> str:
    run = study.run
    if not run.hub:
        raise StudyError(
            f"{study.path}, run: a Hugging Face Job loses its disk, so it pushes its model: add `hub: ORG`, the user "
            "or organisation that models are pushed to."
        )
    resources = Resources()
    chosen = {name: value for name in ("flavor", "timeout", "image", "package", "namespace")
              if (value := getattr(run, name))}  # fmt: skip
    resources = replace(resources, **chosen)
    parts = []
    for step in trainings:
        life = _life_for_a_job(str(step.settings["life"]))
        flags = _without(step.words, {"--life": 1, "--output-dir": 1, "--resume": 1, "--push-to-hub": 1})
        repository = step.words[step.words.index("--push-to-hub") + 1]
        text = job_file("hf-jobs", [life], flags, resources)
        # Every model has its own repository, and not that of its life.
        parts.append(text.replace("--push-to-hub --resume", f"--push-to-hub {repository} --resume", 1))
    path = folder / JOBS / "hf_jobs.sh"
    path.parent.mkdir(parents=True, exist_ok=True)
    head, bodies = (
        parts[0].partition("set -euo pipefail\n")[:2],
        [part.partition("set -euo pipefail\n")[2] for part in parts],
    )
    write_text(path, "".join(head) + "".join(bodies))
    again = f"singlelife study {study.path} --output {folder} --executor local"
    return (
        f"  {path}: {len(trainings)} jobs\nStart them: bash {path}\nOnce they are done, go on here, where each "
        f"finished model is taken from the Hub: {again}"
    )


def _life_for_a_job(life: str) -> str:
    reference = life_reference(life)
    if reference.kind == "named" and registered_life(life).kind == "video":
        raise LifeError(
            f"A Hugging Face Job has none of the frames of {life}. Push them (`singlelife push-life {life} "
            "ORG/NAME`), and name ORG/NAME in the study."
        )
    return life


def _without(words: Sequence[str], flags: dict[str, int]) -> list[str]:
    """A training's flags without some, and as many words after each; `train` itself and the output stay out too."""
    kept, skip = [], 0
    for word in words[1:]:
        if word in flags:
            skip = flags[word]
        elif skip:
            skip -= 1
        elif word != OUT and word != "--cache-dir":
            kept.append(word)
    return kept
