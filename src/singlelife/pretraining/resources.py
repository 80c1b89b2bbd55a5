"""What a run needs and what there is: memory, operations, and the peak of its devices."""

from dataclasses import dataclass

from accelerate import Accelerator

from singlelife.croco import CroCoForPreTraining, training_flops_per_pair
from singlelife.pretraining.arguments import TrainArguments
from singlelife.pretraining.memory import Memory, device_memory, memory_warning, run_memory
from singlelife.pretraining.utilization import Peak, device_peak, utilization
from singlelife.text import in_bytes


@dataclass(frozen=True)
class Resources:
    """Of one run.

    Attributes:
        memory: that a step needs in each process, an estimate.
        available: bytes that the device has for a process, or None where that cannot be told.
        warning: what to say where it may not fit, with the flags that help.
        flops_per_pair: operations of a training step.
        peak: of the device of this process.
        batch_size: pairs at once in a process.
        num_processes: of the run.
    """

    memory: Memory
    available: int | None
    warning: str | None
    flops_per_pair: int
    peak: Peak
    batch_size: int
    num_processes: int

    @classmethod
    def of(
        cls, model: CroCoForPreTraining, train: TrainArguments, accelerator: Accelerator, batch_size: int
    ) -> "Resources":
        """Computed, but for the peak, which may be measured for a third of a second.

        Args:
            model: of the run, not prepared by the accelerator yet, nor moved to a GPU.

        Raises:
            RunError: the run cannot fit into the memory.
        """
        memory, available = run_memory(model, train, accelerator, batch_size), device_memory(accelerator.device)
        return cls(
            memory=memory,
            available=available,
            warning=memory_warning(memory, train, batch_size, available),
            flops_per_pair=training_flops_per_pair(model.config),
            peak=device_peak(accelerator.device, accelerator.mixed_precision),
            batch_size=batch_size,
            num_processes=accelerator.num_processes,
        )

    def utilization(self, pairs_per_second: float) -> float:
        """MFU at a speed of all processes together."""
        return utilization(self.flops_per_pair, pairs_per_second, self.peak, self.num_processes)

    def lines(self) -> dict[str, str]:
        """For the table that a run starts with."""
        there = f" of {in_bytes(self.available)}" if self.available is not None else ""
        lines = {
            "memory": f"about {in_bytes(self.memory.total)}{there} in each process: {in_bytes(self.memory.states)} of "
            f"weights, gradients and moments, {in_bytes(self.memory.activations)} of activations",
            "work": f"{self.flops_per_pair / 1e9:.3g} GFLOP a pair, {self.batch_size} pairs at once in each process",
            "peak": str(self.peak),
        }
        return lines | ({"warning": self.warning} if self.warning else {})
