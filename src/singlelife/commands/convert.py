"""`singlelife convert`: turn released CroCo checkpoints into models of this package."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


@dataclass(frozen=True)
class Convert:
    """Convert a checkpoint of the reference CroCo into a model that every command here takes.

    It takes CroCo.pth, the CroCo v2 family, and models fine-tuned from them, and leaves out their heads. The encoder
    of DUSt3R and MASt3R is exact. Their two decoders exchange tokens, which CroCo's does not: only the first is kept,
    and its cross-attention differs from the original's. Only tensors and plain values are unpickled; no code in the
    file runs.

    The released checkpoints are under CC BY-NC-SA 4.0 (non-commercial), and so are the converted models.

        singlelife convert CroCo_V2_ViTLarge_BaseDecoder.pth models/croco-v2-large
    """

    checkpoint: Annotated[Positional[Path], arg(metavar="CHECKPOINT")]
    """.pth file as released, or .safetensors with its config.json beside it"""
    out: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """folder to make; it must not exist yet"""

    def run(self) -> int:
        from transformers.utils.logging import disable_progress_bar

        from singlelife.croco.convert import convert_checkpoint

        disable_progress_bar()
        made = convert_checkpoint(self.checkpoint, self.out)
        rows, columns = made.config.grid_size
        print(
            f"{self.out}: {made.parameters:,} parameters, {rows}x{columns} patches of {made.config.patch_size} px, "
            f"{made.config.position_embedding_type} positions. Licence: CC BY-NC-SA 4.0, non-commercial (see its "
            "README.md)."
        )
        if made.kind == "fine-tuned":
            print("singlelife: the model has no pixel head, so it cannot be pretrained further.", file=sys.stderr)
        if made.kind == "two decoders":
            print(
                "singlelife: the checkpoint has two decoders that exchange tokens. The encoder is exact, but the "
                "cross-attention differs from the original's: use --method feature-correlation.",
                file=sys.stderr,
            )
        return 0


COMMAND = Convert
