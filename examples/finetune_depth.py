"""Fine-tune a CroCo encoder with a depth probe, end to end, on frames of a life with depth.

    python examples/finetune_depth.py --model runs/sim_1
    python examples/finetune_depth.py --model runs/sim_1 --freeze      # for comparison, keep the encoder frozen

`CroCoForDepthEstimation` freezes its encoder, as the evaluation does. Here the same modules run with gradients. Open
the saved model with pipeline("depth-estimation", model="models/depth").
"""

import argparse

import numpy as np
import torch
from torch.nn.functional import interpolate

import singlelife
from singlelife import CroCoForDepthEstimation, CroCoImageProcessor
from singlelife.croco.depth_croco import log_depth_map, scale_invariant_log_loss
from singlelife.lives.prepared import PreparedLife

UNITS_PER_METRE = 32  # in simulated lives
NEAREST, FARTHEST = 0.1, 40.0  # metres


def views_and_depth(life: PreparedLife, rows: np.ndarray, processor: CroCoImageProcessor) -> tuple[torch.Tensor, ...]:
    """Views ready for the model, (B, 3, S, S), and their depth in metres, (B, S, S), 0 where unknown."""
    depth = life.depth(rows)
    if depth is None:
        raise SystemExit(f"The life {life.name} has no depth: choose a simulated one, such as sim_1.")
    views = processor(life.decode(rows), return_tensors="pt")["pixel_values"]
    metres = torch.from_numpy(depth)[:, None] / UNITS_PER_METRE
    metres = interpolate(metres, views.shape[-2:], mode="nearest")[:, 0]
    return views, torch.where((metres > NEAREST) & (metres <= FARTHEST), metres, 0.0)


def log_depth(model: CroCoForDepthEstimation, views: torch.Tensor) -> torch.Tensor:
    """The log depth that the model's own forward computes, but with gradients into the encoder."""
    config = model.config
    size = config.probe_patch_size or config.patch_size
    tokens = model.croco(views).last_hidden_state
    return log_depth_map(model.probe(tokens), (views.shape[-2] // size, views.shape[-1] // size), size)


@torch.no_grad()
def delta1(model: CroCoForDepthEstimation, views: torch.Tensor, depth: torch.Tensor) -> float:
    """The share of pixels whose predicted depth is within a factor of 1.25 of the truth."""
    error = (log_depth(model.eval(), views) - depth.clamp_min(NEAREST).log()).abs()
    return float((error[depth > 0] < np.log(1.25)).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True, help="a run folder or a checkpoint")
    parser.add_argument("--train", default="sim_3", help="the life to learn depth from")
    parser.add_argument("--test", default="sim_test", help="the life to measure depth on")
    parser.add_argument("--output", default="models/depth", help="where to save the model")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--freeze", action="store_true", help="train the probe only")
    args = parser.parse_args()

    torch.manual_seed(0)
    processor = CroCoImageProcessor.from_pretrained(args.model)
    model = CroCoForDepthEstimation.from_pretrained(args.model, min_depth=NEAREST, max_depth=FARTHEST)
    model.float().croco.requires_grad_(not args.freeze)
    train, test = singlelife.load_life(args.train), singlelife.load_life(args.test)
    held_out = views_and_depth(test, np.linspace(0, len(test) - 1, 200).astype(int), processor)

    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, args.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.learning_rate, total_steps=args.steps)
    rows = np.random.default_rng(0)
    for step in range(1, args.steps + 1):
        views, depth = views_and_depth(train, rows.integers(len(train), size=args.batch_size), processor)
        loss = scale_invariant_log_loss(log_depth(model.train(), views), depth)
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == args.steps:
            print(f"step {step:5}  loss {loss.item():.4f}  δ1 on {args.test} {delta1(model, *held_out):.3f}")
    model.save_pretrained(args.output)
    processor.save_pretrained(args.output)
    print(f"saved {args.output}")


if __name__ == "__main__":
    main()
