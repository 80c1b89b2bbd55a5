"""The validation loss."""

import torch
from accelerate import Accelerator

from singlelife.lives.pairs.dataset import PairDataset
from singlelife.pretraining.batches import ToModel


@torch.no_grad()
def validation_loss(
    model: torch.nn.Module, pairs: PairDataset, to_model: ToModel, accelerator: Accelerator, batch_size: int
) -> float:
    """Mean loss on the validation pairs; the same pairs, crops and masks each time.

    Called by every process; each takes its share of the pairs.

    Args:
        batch_size: pairs at once in each process.
    """
    total = torch.zeros((), dtype=torch.float64)
    model.eval()
    for start in range(0, len(pairs), batch_size * accelerator.num_processes):
        first = start + accelerator.process_index * batch_size
        indices = range(first, min(first + batch_size, len(pairs)))
        # Every process makes the same number of forward passes; one without pairs left repeats one for nothing.
        with accelerator.autocast():
            loss = model(**to_model(pairs.__getitems__(indices or [0]))).loss
        total += len(indices) * loss.double().cpu()
    model.train()
    return accelerator.reduce(total.float().to(accelerator.device), "sum").item() / len(pairs)
