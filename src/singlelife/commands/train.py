"""`singlelife train`, the same as train.py: pretrain a model on one life."""

from collections.abc import Sequence

from singlelife.errors import RunError
from singlelife.machine import configure_cpu
from singlelife.pretraining.arguments import annotated_yaml, parse_with_origins


def main(words: Sequence[str]) -> int:
    """Pretrain as the command line says, and return the exit code.

    A function, not a data class with `run`: which defaults `--help` shows depends on `--life` and `--config`.

    Raises:
        SingleLifeError: whatever the user can act on.
    """
    config, origins = parse_with_origins(words)
    if config.start.print_config:
        print(annotated_yaml(config, origins), end="")
        return 0
    configure_cpu()
    import torch  # only once the settings are right

    from singlelife.pretraining.pretrain import pretrain

    try:
        return pretrain(config)
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"The device has too little memory ({str(error).splitlines()[0]}). Two flags help and keep the losses: "
            "more --gradient-accumulation-steps, or --gradient-checkpointing all."
        ) from error
