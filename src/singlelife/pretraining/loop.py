"""The training loop."""

import math
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers.image_processing_utils import BaseImageProcessor

from singlelife.errors import RunError
from singlelife.machine import peak_resident
from singlelife.optimization import learning_rate
from singlelife.pretraining.arguments import TrainConfig
from singlelife.pretraining.batches import STOP_SIGNALS, ToModel, read_batches
from singlelife.pretraining.checkpoints import TrainingState, save_checkpoint
from singlelife.pretraining.device import format_in_words, peak_flops
from singlelife.pretraining.networks import training_flops
from singlelife.pretraining.run_folder import RunFolder
from singlelife.text import duration, in_bytes


@dataclass(frozen=True)
class Callback:
    """Something that all processes do every `every` steps and after the last one. The loop logs the result of `act`.
    `act` must leave the model in training mode."""

    every: int
    act: Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Step:
    """The result of one optimiser step.

    Attributes:
        loss: the mean over all processes and accumulated batches.
        grad_norm: the gradient's norm before clipping.
        waited: seconds of waiting for the loader.
        stop: the signal that some process received, or 0.
        not_finite: which number was not finite, so that the step changed nothing; empty if all was well.
    """

    loss: float
    grad_norm: float
    waited: float
    stop: int
    not_finite: str


@dataclass
class Trainer:
    """Takes a model from step `state.step` to `settings.max_steps`.

    Every process runs the same steps, and only the main one writes.

    Attributes:
        model, optimizer: as the accelerator prepared them.
        to_model: turns a batch of the loader into the model's inputs.
        callbacks: what to do between steps.
        saved: the main process calls this with each complete checkpoint.
        peak_flops: the peak operations per second of one process so far, in matrix products or in steps.
    """

    settings: TrainConfig
    accelerator: Accelerator
    folder: RunFolder
    state: TrainingState
    model: torch.nn.Module
    optimizer: AcceleratedOptimizer
    processor: BaseImageProcessor
    to_model: ToModel
    callbacks: list[Callback] = field(default_factory=list)
    saved: Callable[[Path], None] | None = None
    peak_flops: float = 0.0

    def train(self, loader: DataLoader) -> int:
        """Make the remaining steps.

        Returns:
            0 at the end of the run, or the number of the signal that stopped it after it saved a checkpoint.

        Raises:
            LifeError: a frame is damaged.
            RunError: too many losses are not finite, a loader's worker was killed, or a checkpoint cannot be written.
        """
        settings, state = self.settings, self.state
        batches, stopped_by = read_batches(loader), 0
        seconds: list[float] = []  # of each step since the last line of the metrics
        waited: list[float] = []  # the part spent waiting for data
        bar = tqdm(
            initial=state.step,
            total=settings.max_steps,
            unit="step",
            disable=not self.accelerator.is_main_process,
            mininterval=0.5 if sys.stderr.isatty() else 30,  # seconds: a log file needs fewer updates
            dynamic_ncols=True,
            smoothing=0.05,
        )
        self.model.train()
        with stop_signals() as received:
            while state.step < settings.max_steps and not stopped_by:
                start = time.perf_counter()
                step = self.make_step(batches, received[-1])
                stopped_by = step.stop
                state.step += 1
                if step.not_finite:
                    self._skip(step.not_finite)
                else:
                    state.skipped_in_a_row = 0
                    state.pending_losses.append(step.loss)
                    seconds.append(time.perf_counter() - start)
                    waited.append(step.waited)
                    bar.set_postfix_str(
                        f"loss {math.fsum(state.pending_losses) / len(state.pending_losses):.4f}", False
                    )
                bar.update()

                last = state.step == settings.max_steps
                if (state.step % settings.logging_steps == 0 or last) and state.pending_losses:
                    self._log_losses(step, seconds, waited)
                for callback in self.callbacks:
                    if state.step % callback.every == 0 or last:
                        self.log(callback.act())
                # While steps fail, write no checkpoint, so that the last good ones are kept.
                if (state.step % settings.save_steps == 0 and not state.skipped_in_a_row) or last or stopped_by:
                    self.save()
        bar.close()
        return stopped_by

    def make_step(self, batches: Iterator[dict[str, torch.Tensor]], stop: int = 0) -> Step:
        """One optimiser step; `stop` is the signal that this process received, or 0."""
        settings, accelerator = self.settings, self.accelerator
        rate = learning_rate(
            self.state.step,
            peak=settings.peak_learning_rate,
            warmup_steps=settings.warmup,
            max_steps=settings.max_steps,
            min_rate=settings.min_lr_rate,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate

        waited = 0.0
        loss = torch.zeros((), device=accelerator.device)
        for _ in range(settings.gradient_accumulation_steps):
            start = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - start
            with accelerator.accumulate(self.model):
                with accelerator.autocast():
                    part = self.model(**self.to_model(batch)).loss
                accelerator.backward(part)
            loss += part.detach() / settings.gradient_accumulation_steps

        # One exchange gives every process the mean loss, and the signal if any of them received one.
        shared = accelerator.gather(torch.stack([loss, loss.new_tensor(stop)]).unsqueeze(0)).tolist()
        mean_loss = math.fsum(one[0] for one in shared) / len(shared)
        norm = accelerator.clip_grad_norm_(self.model.parameters(), settings.max_grad_norm or math.inf)
        norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)  # of all shards
        not_finite = ""
        if not math.isfinite(mean_loss):
            not_finite = f"the loss is {mean_loss}"
        elif not math.isfinite(norm) and accelerator.scaler is None:
            not_finite = f"the gradient's norm is {norm}"
        # fp16's scaler skips such a step by itself, and adapts its scale.
        if not not_finite or accelerator.scaler is not None:
            self.optimizer.step()
        self.optimizer.zero_grad()
        return Step(mean_loss, norm, waited, int(max(one[1] for one in shared)), not_finite)

    def _log_losses(self, step: Step, seconds: list[float], waited: list[float]) -> None:
        """Write a line of the metrics: the mean loss since the last line, and the speed, counting only time in steps.
        The first time, also print how long the rest will take. `data_wait` is the share of time spent waiting for the
        loader; `mfu` is the speed as a share of `peak_flops`."""
        pending, total = self.state.pending_losses, max(math.fsum(seconds), 1e-9)
        rate = len(seconds) * self.settings.train_batch_size / total
        number_format, left = self.accelerator.mixed_precision, self.settings.max_steps - self.state.step
        if not self.peak_flops and left and self.accelerator.is_main_process:
            step_seconds = statistics.median(seconds)
            on_gpu = self.accelerator.device.type == "cuda"
            memory = torch.cuda.max_memory_allocated() if on_gpu else peak_resident() or 0
            tqdm.write(
                f"{left:,} steps to go: about {duration(left * step_seconds)} at {step_seconds:.2g} s a step, in "
                f"{format_in_words(number_format)}; peak memory so far {in_bytes(memory)}. Validation, pictures and "
                "saving come on top."
            )
        flops = training_flops(self.accelerator.unwrap_model(self.model).config) * rate
        reached = flops / self.accelerator.num_processes
        if not self.peak_flops or self.accelerator.device.type == "cpu":
            # Measure again at each line: other work may slow a CPU down now and then, but hardly every time.
            self.peak_flops = max(self.peak_flops, peak_flops(self.accelerator.device, number_format))
        self.peak_flops = max(self.peak_flops, reached)
        self.log(
            {
                "loss": math.fsum(pending) / len(pending),
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "grad_norm": step.grad_norm,
                "pairs_per_second": round(rate, 2),
                "data_wait": round(math.fsum(waited) / total, 4),
                "tflops": round(flops / 1e12, 6),
                "mfu": round(reached / self.peak_flops, 4),
            }
        )
        for values in (pending, seconds, waited):
            values.clear()

    def _skip(self, what: str) -> None:
        """Count a step that changed nothing; raises a RunError if too many in a row were skipped."""
        state = self.state
        state.skipped_steps += 1
        state.skipped_in_a_row += 1
        end = state.step * self.settings.train_batch_size
        first, last = end - self.settings.train_batch_size, end - 1
        if state.skipped_in_a_row > self.settings.max_skipped_steps:
            raise RunError(
                f"{what[0].upper()}{what[1:]} at step {state.step - 1} (pairs {first} to {last}); steps skipped in a "
                f"row: {state.skipped_in_a_row}. The run has stopped; its last good checkpoint is "
                f"{self.folder.latest_checkpoint() or 'none: it was too early'}. "
                "Start again with a lower --learning-rate, a larger --warmup-ratio or a lower --max-grad-norm."
            )
        if self.accelerator.is_main_process:
            tqdm.write(f"Step {state.step} was skipped: {what} (pairs {first} to {last}).")
            self.folder.log({"step": state.step, "skipped": what, "first_pair": first, "last_pair": last})

    def save(self) -> None:
        """Write a checkpoint and delete those past `save_total_limit`."""
        save_checkpoint(
            self.folder, self.state, self.accelerator, self.model, self.optimizer.optimizer, self.processor
        )
        if self.accelerator.is_main_process:
            self.folder.keep_latest(self.settings.save_total_limit)
            if self.saved:
                self.saved(self.folder.checkpoint_path(self.state.step))

    def log(self, values: dict[str, Any]) -> None:
        """Write the values of this step, if any, to the metrics, and the numbers among them to the trackers."""
        if values and self.accelerator.is_main_process:
            self.folder.log({"step": self.state.step} | values)
            numbers = {name: value for name, value in values.items() if not isinstance(value, str)}
            self.accelerator.log(numbers, step=self.state.step)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Record the first of `STOP_SIGNALS` instead of dying from it. A second one ends the process at once.

    A closing terminal sends SIGHUP several times: later ones are ignored, and output to that terminal is dropped.
    A run that was started with nohup ignores SIGHUP from the start.

    Yields:
        0, and the signals received so far.
    """
    received, hangup = [0], getattr(signal, "SIGHUP", None)
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115 (until the process ends)
    on_terminal = [name for name in ("stdout", "stderr") if getattr(sys, name).isatty()]

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        restore()
        if number == hangup:
            for name in on_terminal:
                setattr(sys, name, nowhere)

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_IGN if number == hangup in received else handler)

    caught = [number for number in STOP_SIGNALS if number != hangup or signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, note) for number in caught}
    try:
        yield received
    finally:
        restore()
