"""What a study will do and what it will take, before it does it."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from singlelife.pretraining.run_folder import RunFolder, read_metrics
from singlelife.study.runner import partial_folder, record_of, shown_command
from singlelife.study.steps import Plan, Step
from singlelife.study.study_file import Run, Study
from singlelife.text import aligned, duration

_UTILIZATION = 0.4  # of the peak: what trainings reach on a GPU, and is assumed where nothing was measured
_NOT_MEASURED = {"prepare": 60.0, "align": 15.0, "evaluate correspondence": 20.0, "evaluate depth": 45.0}  # seconds


def outlook(study: Study, plan: Plan, folder: Path, wanted: Sequence[str]) -> str:
    """The plan for people: its steps in order, their commands, what is done, and an estimate of the rest."""
    names = plan.needed_by(wanted)
    estimates = _Estimates(study, plan, folder)
    rows = [("STEP", "STATE", "TIME")]
    left: dict[str, float] = {}
    commands = []
    for name in names:
        step = plan.steps[name]
        record = record_of(folder, step)
        if record:
            rows.append((name, "done", duration(record["seconds"])))
            continue
        begun = _part_done(folder, step)
        seconds = estimates.seconds(step) * (1 - begun)
        left[step.kind] = left.get(step.kind, 0.0) + seconds
        rows.append((name, f"begun, {begun:.0%}" if begun else "to do", f"about {duration(seconds)}"))
        commands.append(shown_command(folder, step, study.run))
    done = len(names) - len(commands)
    total = sum(left.values())
    lines = [aligned(rows), "", f"{len(names)} steps: {done} done, {len(commands)} to do."]
    if commands:
        lines += ["The next one:", f"  {commands[0]}"]
        by_kind = ", ".join(f"{kind} {duration(seconds)}" for kind, seconds in left.items())
        lines.append(
            f"About {duration(total)} one after another ({by_kind}), {duration(total / study.run.side_by_side)} with "
            f"{study.run.side_by_side} side by side, if the machine has the cores."
        )
        lines += [f"  {note}" for note in estimates.notes]
    if cost := gpu_cost(plan, names, study.run):
        lines.append(cost)
    return "\n".join(lines)


class _Estimates:
    """How long steps take, by what was measured of those that are done; where nothing was, by operations."""

    def __init__(self, study: Study, plan: Plan, folder: Path):
        self._run = study.run
        self.notes: list[str] = []
        by_kind: dict[str, list[float]] = {}
        rates = []  # operations per second of trainings
        for step in plan.steps.values():
            record = record_of(folder, step)
            if record and step.kind == "train":
                rates.append(training_operations(step) / max(record["seconds"], 1.0))
            elif step.kind == "train" and (speed := _speed_so_far(partial_folder(folder, step))):
                rates.append(operations_per_pair(step) * speed)
            elif record:
                by_kind.setdefault(step.kind, []).append(record["seconds"])
        self._seconds = {kind: sum(values) / len(values) for kind, values in by_kind.items()}
        self._rate = sum(rates) / len(rates) if rates else 0.0
        if rates:
            self.notes.append(f"Trainings are estimated by the {len(rates)} that were made, or begun, here.")
        measured = ", ".join(f"{kind} ({len(values)})" for kind, values in by_kind.items())
        if measured:
            self.notes.append(f"So are, by the mean of those made: {measured}.")

    def seconds(self, step: Step) -> float:
        if step.kind == "train":
            return training_operations(step) / self._training_rate()
        if step.kind not in self._seconds:
            self._seconds[step.kind] = _NOT_MEASURED[step.kind]
            guess = duration(self._seconds[step.kind])
            self.notes.append(f"No `{step.kind}` was made here yet: {guess} for each is a guess.")
        return self._seconds[step.kind]

    def _training_rate(self) -> float:
        if not self._rate:
            if self._run.gpu:
                self._rate = self._run.gpus * gpu_rate(self._run.gpu)
                self.notes.append(f"Trainings are computed for {max(self._run.gpus, 1)} {self._run.gpu} each.")
            else:
                self._rate, where = _measured_rate(self._run)
                self.notes.append(f"No training was made here yet: their time is that of their operations at {where}.")
        return self._rate


def _part_done(folder: Path, step: Step) -> float:
    """How much of a training is kept in its last checkpoint, 0 to 1; of other steps, 0: they begin anew."""
    if step.kind != "train":
        return 0.0
    return max(RunFolder(partial_folder(folder, step)).checkpoints(), default=0) / step.settings["max_steps"]


def _speed_so_far(run_folder: Path) -> float:
    """The median pairs per second of a training that was begun; 0 where it has not logged any."""
    metrics = run_folder / "metrics.jsonl"
    lines = read_metrics(metrics) if metrics.is_file() else []
    speeds = [line["pairs_per_second"] for line in lines if "pairs_per_second" in line]
    return statistics.median(speeds) if speeds else 0.0


def _measured_rate(run: Run) -> tuple[float, str]:
    """Of the number format that is the faster here, as `--mixed-precision auto` takes it."""
    import torch

    from singlelife.pretraining.utilization import measured_peak

    torch.set_num_threads(run.threads)
    peaks = [measured_peak(torch.device("cpu"), dtype) for dtype in (torch.float32, torch.bfloat16)]
    peak = max(peaks, key=lambda each: each.flops_per_second)
    return _UTILIZATION * peak.flops_per_second, f"{_UTILIZATION:g} of {peak}"


def training_operations(step: Step) -> float:
    """Operations of all steps of a training."""
    return operations_per_pair(step) * step.settings["max_steps"] * step.settings["train_batch_size"]


def operations_per_pair(step: Step) -> float:
    from singlelife.croco.configuration_croco import CroCoConfig, training_flops_per_pair
    from singlelife.files import read_yaml
    from singlelife.pretraining.arguments import config_path

    settings = step.settings
    model = Path(str(settings["model"]))
    if model.is_dir():
        config = CroCoConfig.from_pretrained(model)
    else:
        config = CroCoConfig(**read_yaml(config_path("models", str(model))))
    for name in ("image_size", "mask_ratio"):
        if settings.get(name) is not None:
            setattr(config, name, settings[name])
    return float(training_flops_per_pair(config))


def gpu_rate(gpu: str) -> float:
    """Operations per second that are expected of a GPU in training.

    Raises:
        StudyError: it is not in the table.
    """
    from singlelife.errors import StudyError
    from singlelife.pretraining.utilization import stated_peak

    peak = stated_peak(gpu, "bf16")
    if peak is None:
        raise StudyError(f"run, gpu: {gpu!r} is not in hub_configs/gpu_peaks.yaml.")
    return _UTILIZATION * peak.flops_per_second


def gpu_cost(plan: Plan, names: Sequence[str], run: Run) -> str:
    """What all trainings cost on the GPU that the file names, done or not; empty where it names none."""
    if not run.gpu:
        return ""
    trainings = [plan.steps[name] for name in names if plan.steps[name].kind == "train"]
    operations = sum(map(training_operations, trainings))
    hours = operations / gpu_rate(run.gpu) / 3600
    return (
        f"Computed, not run: the {len(trainings)} trainings are {operations:.3g} operations, {hours:,.0f} GPU hours "
        f"on {run.gpu} at {_UTILIZATION:g} of its dense bf16 peak; preparing lives, scoring and evaluating come "
        "on top."
    )
