"""`singlelife train`, the same as train.py: pretrain a model on one life."""

from collections.abc import Sequence

from singlelife.machine import configure_cpu, say
from singlelife.pretraining.arguments import annotated_yaml, parse_arguments
from singlelife.pretraining.run_folder import check_start


def main(words: Sequence[str]) -> int:
    """Pretrain as the command line says, and return the exit code.

    A function, not a data class with `run`: which defaults `--help` shows depends on `--life` and `--config`.

    Raises:
        SingleLifeError: whatever the user can act on.
    """
    config = parse_arguments(words)
    if config.start.print_config:
        print(annotated_yaml(config), end="")
        return 0
    check_start(config)
    say("Loading PyTorch ...")
    configure_cpu()
    from singlelife.pretraining.pretrain import pretrain  # seconds: not before the settings are right

    return pretrain(config)
