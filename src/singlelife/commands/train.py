"""`singlelife train`, the same as train.py: pretrain a model on one life."""

from collections.abc import Sequence

from singlelife.machine import configure_cpu, say
from singlelife.pretraining.arguments import annotated_yaml, parse_arguments
from singlelife.pretraining.run_folder import check_start


def main(words: Sequence[str]) -> int:
    """Pretrain as the command line says, and return the exit code.

    A function, not a data class with `run`: the defaults that `--help` shows depend on `--life` and `--config`.

    Raises:
        SingleLifeError: any error that the user can act on.
    """
    config = parse_arguments(words)
    if config.start.print_config:
        print(annotated_yaml(config), end="")
        return 0
    check_start(config)
    say("Loading PyTorch ...")
    configure_cpu()
    from singlelife.pretraining.pretrain import pretrain  # takes seconds, so only after the checks

    return pretrain(config)
