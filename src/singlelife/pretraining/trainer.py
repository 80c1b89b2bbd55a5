"""The training loop."""

import math
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from singlelife.errors import RunError
from singlelife.optimization import learning_rate
from singlelife.pretraining.arguments import TrainArguments
from singlelife.pretraining.batches import STOP_SIGNALS, ToModel
from singlelife.pretraining.checkpoints import TrainingState, save_checkpoint
from singlelife.pretraining.progress import Progress, Stopwatch
from singlelife.pretraining.run_folder import RunFolder
from singlelife.pretraining.trackers import track
from singlelife.text import duration

_STEPS_BEFORE_ESTIMATE = 20
_SPIKE = 2.0  # a loss this many times the usual one is worth a look at its pairs


class Trainer:
    """Takes a model from step `state.step` to `arguments.max_steps`.

    Model and optimiser are already prepared by the accelerator. Every process runs the same steps; the main one alone
    writes.

    Args:
        to_model: from a batch of the loader to the model's inputs.
        periodic: what is done between steps.
        saved: called in the main process with each checkpoint that is complete.
        utilization: from pairs per second to MFU.
    """

    def __init__(
        self,
        arguments: TrainArguments,
        accelerator: Accelerator,
        folder: RunFolder,
        state: TrainingState,
        model: torch.nn.Module,
        optimizer: AcceleratedOptimizer,
        processor: Any,
        to_model: ToModel,
        periodic: Sequence["Periodic"] = (),
        saved: Callable[[Path], None] | None = None,
        *,
        utilization: Callable[[float], float],
    ):
        self.arguments, self.accelerator, self.folder, self.state = arguments, accelerator, folder, state
        self.model, self.optimizer, self.processor = model, optimizer, processor
        self.to_model, self.periodic, self.saved = to_model, periodic, saved
        self.utilization = utilization

    def train(self, loader: DataLoader) -> int:
        """Make the remaining steps.

        Returns:
            0 at the end of the run, or the number of the signal after which it saved a checkpoint and stopped.

        Raises:
            RunError: the loss is not finite, or a checkpoint cannot be written.
        """
        arguments, state = self.arguments, self.state
        batches = iter(loader)
        progress = Progress(
            state.step, arguments.max_steps, arguments.train_batch_size, show=self.accelerator.is_main_process
        )
        first_step = state.step
        self.model.train()
        with StopSignals() as signals:
            while state.step < arguments.max_steps:
                watch = Stopwatch()
                step = self.make_step(batches, signals.received)
                stop = step.stop
                state.step += 1
                if step.not_finite:
                    self._skip(step, progress)
                else:
                    state.skipped_in_a_row = 0
                    state.pending_losses.append(step.loss)
                    self._watch_for_spike(step, progress)
                    progress.update(step.loss, watch(), step.waited)

                last = state.step == arguments.max_steps
                if state.step - first_step == _STEPS_BEFORE_ESTIMATE and not last:
                    progress.say(self._estimate(progress))
                if (state.step % arguments.logging_steps == 0 or last) and state.pending_losses:
                    loss = math.fsum(state.pending_losses) / len(state.pending_losses)
                    values = {"loss": loss, "learning_rate": step.learning_rate, "grad_norm": step.grad_norm}
                    speed = progress.speed()
                    self.log(values | speed | {"mfu": round(self.utilization(speed["pairs_per_second"]), 5)})
                    state.pending_losses = []
                    progress.restart()
                for task in self.periodic:
                    if state.step % task.every == 0 or last:
                        self.log(task.act())
                # While steps fail, the checkpoints from before stay: they may be the last good ones.
                if (state.step % arguments.save_steps == 0 and not state.skipped_in_a_row) or last or stop:
                    self.save()
                if stop:
                    break
            else:
                stop = 0
        progress.close()
        return stop

    def make_step(self, batches: Iterator[dict[str, torch.Tensor]], stop: int = 0) -> "Step":
        """One optimiser step; `stop` is the signal that this process was told to stop by, or 0."""
        arguments, accelerator = self.arguments, self.accelerator
        rate = learning_rate(
            self.state.step,
            peak=arguments.peak_learning_rate,
            warmup_steps=arguments.warmup_steps,
            max_steps=arguments.max_steps,
            min_rate=arguments.min_lr_rate,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate

        waited = 0.0
        loss = torch.zeros((), device=accelerator.device)
        for _ in range(arguments.gradient_accumulation_steps):
            watch = Stopwatch()
            batch = next(batches)
            waited += watch()
            with accelerator.accumulate(self.model):
                with accelerator.autocast():
                    part = self.model(**self.to_model(batch)).loss
                accelerator.backward(part)
            loss += part.detach() / arguments.gradient_accumulation_steps

        # One exchange tells every process the mean loss and whether any of them was told to stop.
        told = accelerator.gather(torch.stack([loss, loss.new_tensor(stop)]).unsqueeze(0)).tolist()
        mean_loss = math.fsum(one[0] for one in told) / len(told)
        max_norm = arguments.max_grad_norm or math.inf
        norm = accelerator.clip_grad_norm_(self.model.parameters(), max_norm)
        norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)  # of all shards
        not_finite = ""
        if not math.isfinite(mean_loss):
            not_finite = f"the loss is {mean_loss}"
        elif not math.isfinite(norm) and accelerator.scaler is None:
            not_finite = f"the gradient's norm is {norm}"
        if (
            not not_finite or accelerator.scaler is not None
        ):  # fp16's scaler skips such a step by itself, to learn of it
            self.optimizer.step()
        self.optimizer.zero_grad()
        return Step(mean_loss, rate, norm, waited, int(max(one[1] for one in told)), not_finite)

    def _skip(self, step: "Step", progress: Progress) -> None:
        """Count a step that changed nothing, and stop the run where that goes on."""
        state = self.state
        state.skipped_steps += 1
        state.skipped_in_a_row += 1
        if state.skipped_in_a_row > self.arguments.max_skipped_steps:
            raise self._not_finite(step.not_finite)
        first, last = self._pairs_of_last_step()
        progress.skip()
        progress.say(f"Step {state.step} was skipped: {step.not_finite} (pairs {first} to {last}).")
        if self.accelerator.is_main_process:
            self.folder.log({"step": state.step, "skipped": step.not_finite, "first_pair": first, "last_pair": last})

    def _watch_for_spike(self, step: "Step", progress: Progress) -> None:
        usual = progress.usual_loss()
        if usual is None or step.loss < _SPIKE * usual:
            return
        first, last = self._pairs_of_last_step()
        progress.say(
            f"The loss of step {self.state.step} is {step.loss:.4f}, not about {usual:.4f} (pairs {first} to {last})."
        )
        if self.accelerator.is_main_process:
            self.folder.log({"step": self.state.step, "loss_spike": step.loss, "first_pair": first, "last_pair": last})

    def _pairs_of_last_step(self) -> tuple[int, int]:
        end = self.state.step * self.arguments.train_batch_size
        return end - self.arguments.train_batch_size, end - 1

    def save(self) -> None:
        """Write a checkpoint and delete those past `save_total_limit`, except the best."""
        save_checkpoint(
            self.folder, self.state, self.accelerator, self.model, self.optimizer.optimizer, self.processor
        )
        if self.accelerator.is_main_process:
            best = self.folder.note_best() if self.arguments.keep_best else None
            self.folder.keep_latest(self.arguments.save_total_limit, besides=best)
            if self.saved:
                self.saved(self.folder.checkpoint_path(self.state.step))

    def log(self, values: dict[str, Any]) -> None:
        """Write values, if any, into the metrics, and the numbers among them to the trackers, as of this step."""
        if values and self.accelerator.is_main_process:
            self.folder.log({"step": self.state.step} | values)
            track(self.accelerator, values, self.state.step)

    def _estimate(self, progress: Progress) -> str:
        rate = progress.speed()["pairs_per_second"]
        remaining = (self.arguments.max_steps - self.state.step) * self.arguments.train_batch_size
        return f"About {duration(remaining / rate)} to go at {rate:.0f} pairs/s, validation and pictures not counted."

    def _not_finite(self, what: str) -> RunError:
        first, last = self._pairs_of_last_step()
        skipped = self.state.skipped_in_a_row
        kept = list(self.folder.checkpoints().values())
        return RunError(
            f"{what[0].upper()}{what[1:]} at step {self.state.step - 1} (pairs {first} to {last}), "
            f"{'the first time' if skipped == 1 else f'the {skipped}th step in a row'}. "
            f"The run has stopped; its last good checkpoint is {kept[-1] if kept else 'none: it was too early'}. "
            "Start again with a lower --learning-rate, a longer --warmup-steps or a lower --max-grad-norm."
        )


@dataclass(frozen=True)
class Periodic:
    """What all processes do every `every` steps and after the last one; what it returns is logged.

    Its time is not that of a step. It leaves the model in training mode.
    """

    every: int
    act: Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Step:
    """What one optimiser step gave.

    Attributes:
        loss: mean over all processes and accumulated batches.
        learning_rate: of this step.
        grad_norm: before it was clipped.
        waited: seconds that the loader kept it waiting.
        stop: the signal that some process was told to stop by, or 0.
        not_finite: what is not finite, in words, in which case the step changed nothing; else empty.
    """

    loss: float
    learning_rate: float
    grad_norm: float
    waited: float
    stop: int
    not_finite: str


class StopSignals:
    """Takes note of SIGINT, SIGTERM and SIGUSR1 instead of dying of them; a second one is obeyed at once.

    SIGUSR1 is what SLURM can be asked to send some time before a job's limit (`--signal=USR1@300`).
    """

    def __init__(self) -> None:
        self.received = 0

    def __enter__(self) -> "StopSignals":
        self._previous = {
            number: signal.signal(number, self._note) for number in (getattr(signal, name) for name in STOP_SIGNALS)
        }
        return self

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        self._restore()
