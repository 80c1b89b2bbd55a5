"""`singlelife convert`: released checkpoints of others as models of this package."""

import argparse
import sys
from pathlib import Path

from singlelife.commands.options import Commands, HelpFormatter, quiet_transformers

_DESCRIPTION = """\
Convert CroCo.pth, the CroCo v2 family, and models fine-tuned from them, without their heads. Of DUSt3R and MASt3R
the encoder is exact; their two decoders exchange tokens, which CroCo's does not, so the first one is taken and its
cross-attention is not the original's. Only tensors and plain values are unpickled; nothing in the file is run."""
_EXAMPLES = """\
examples:
  singlelife convert croco CroCo_V2_ViTLarge_BaseDecoder.pth models/croco-v2-large
  singlelife evaluate correspondence models/croco-v2-large --data sim_test

The released checkpoints are under CC BY-NC-SA 4.0: non-commercial, and so is what is made of them."""


def add_command(commands: Commands) -> None:
    """Describe `singlelife convert`."""
    command = commands.add_parser(
        "convert",
        help="turn a released CroCo checkpoint into a model of this package",
        description="Turn checkpoints of the reference implementations into models that every command here takes.",
    )
    formats = command.add_subparsers(title="formats", metavar="FORMAT", required=True)
    croco = formats.add_parser(
        "croco",
        help="CroCo v1 and v2, and models fine-tuned from them",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=HelpFormatter,
    )
    croco.add_argument(
        "checkpoint", type=Path, metavar="CKPT", help=".pth as released, or .safetensors with config.json"
    )
    croco.add_argument("out", type=Path, metavar="OUT", help="folder to make; it should not be there yet")
    croco.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from singlelife.conversion import convert_checkpoint

    quiet_transformers()
    made = convert_checkpoint(arguments.checkpoint, arguments.out, progress=True)
    rows, columns = made.config.grid_size
    print(
        f"{arguments.out}: {made.parameters:,} parameters, {rows}x{columns} patches of {made.config.patch_size} px, "
        f"{made.config.position_embedding_type} positions. Licence: CC BY-NC-SA 4.0, non-commercial (its README.md)."
    )
    if made.kind == "fine-tuned":
        print("singlelife: it has no pixel head, so it cannot be pretrained on.", file=sys.stderr)
    if made.kind == "two decoders":
        print(
            "singlelife: it is of a model with two decoders that exchange tokens. Its encoder is exact; its "
            "cross-attention is not the original's: use --method feature-correlation.",
            file=sys.stderr,
        )
    return 0
