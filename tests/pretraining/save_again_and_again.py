"""Forks processes that do nothing but save checkpoints, as a run does, until they are killed.

Each line on stdin asks for one more; its process id is printed. Run by test_saving.py: to import torch and
transformers takes seconds, to fork nothing.
"""

import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers.utils.logging import disable_progress_bar

from singlelife.croco import CroCoConfig, CroCoForPreTraining, CroCoImageProcessor
from singlelife.pretraining.checkpoints import TrainingState, load_moments, load_weights, read_state, save_checkpoint
from singlelife.pretraining.run_folder import RunFolder

sys.path.insert(0, str(Path(__file__).parents[1]))
from micro import MICRO


def save_until_killed(folder: RunFolder) -> None:
    """Go on from the last checkpoint. At step s every weight and moment is s, so that a mixture would be seen."""
    accelerator = Accelerator(cpu=True)
    config = CroCoConfig(**MICRO)
    processor = CroCoImageProcessor(size={"height": 32, "width": 32})
    last = folder.latest_checkpoint()
    model = load_weights(last, config) if last else CroCoForPreTraining(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    state = read_state(last) if last else TrainingState()
    if last:
        load_moments(last, model, optimizer)
    folder.rewind(state.step)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    while True:
        state.step += 1
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(state.step)
                for name in ("exp_avg", "exp_avg_sq"):
                    optimizer.state[parameter][name].fill_(state.step)
        folder.log({"step": state.step, "val_loss": 1 / (1 + state.step % 5)})
        save_checkpoint(folder, state, accelerator, model, optimizer, processor)
        folder.keep_latest(2)


if __name__ == "__main__":
    torch.set_num_threads(1)
    disable_progress_bar()
    Path(sys.argv[1]).mkdir()
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            save_until_killed(RunFolder(Path(sys.argv[1])))
        print(child, flush=True)
        os.waitpid(child, 0)
        print("ended", flush=True)
