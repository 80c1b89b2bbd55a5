"""`singlelife train-all`: one training job per life, written for a scheduler or handed to it."""

import argparse
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from singlelife.commands.options import Commands, HelpFormatter
from singlelife.errors import HubError, SingleLifeError

if TYPE_CHECKING:
    from singlelife.pretraining.jobs import Resources

_EXAMPLES = """\
examples:
  singlelife train-all --lives 'wt_*' --executor slurm --gpus 8 --sbatch=--partition=gpu -- --seed 1
  singlelife train-all --lives my-name/my-day my-name/my-week --executor hf-jobs --flavor a100-large --submit
  singlelife train-all --lives sim_1 sim_2 --executor shell --gpus 0 --dry-run"""


def add_command(commands: Commands) -> None:
    """Describe `singlelife train-all`."""
    command = commands.add_parser(
        "train-all",
        usage="singlelife train-all --lives NAME ... [options] [-- flags of singlelife train]",
        help="write or submit a training job for each of many lives",
        description="Write the job file that trains a model on each of many lives, for SLURM (an array), Hugging Face "
        "Jobs (a job each) or one shell (one after another), or submit it. Each job goes on where it was when it is "
        "started again. Flags after -- go to every training.",
        epilog=_EXAMPLES,
        formatter_class=HelpFormatter,
    )
    command.add_argument("flags", nargs="*", metavar="-- FLAGS", help="of `singlelife train`, for every life")
    command.add_argument(
        "--lives",
        nargs="+",
        required=True,
        metavar="NAME",
        help="lives, as `singlelife train --life` takes them; a glob in quotes stands for registered names",
    )
    command.add_argument(
        "--executor", choices=("slurm", "hf-jobs", "shell"), default="shell", help="who runs (default: %(default)s)"
    )
    command.add_argument(
        "--output", type=Path, default=Path("jobs"), metavar="DIR", help="folder of the file (default: %(default)s)"
    )
    what = command.add_mutually_exclusive_group()
    what.add_argument("--submit", action="store_true", help="start the jobs now")
    what.add_argument("--dry-run", action="store_true", help="print the file instead of writing it")
    command.add_argument(
        "--gpus", type=int, default=1, metavar="N", help="per job, on one machine (default: 1; 0: its CPU)"
    )
    command.add_argument("--time", default="24:00:00", metavar="LIMIT", help="SLURM's limit (default: %(default)s)")
    command.add_argument(
        "--sbatch", action="append", default=[], metavar="OPTION", help="any other of sbatch: --sbatch=--account=me"
    )
    command.add_argument("--flavor", metavar="NAME", help="hardware of a Hugging Face Job (see `hf jobs hardware`)")
    command.add_argument("--timeout", metavar="TIME", help="longest duration of a Hugging Face Job, such as 24h")
    command.add_argument("--image", metavar="NAME", help="Docker image of a Hugging Face Job, with torch in it")
    command.add_argument(
        "--package", metavar="SPEC", help="what pip installs in a Hugging Face Job (default: singlelife), as a URL"
    )
    command.add_argument("--namespace", metavar="ORG", help="whose Hugging Face Jobs they are (default: yours)")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from singlelife.pretraining.jobs import Resources, check_jobs, job_file, named_lives, write_job_file

    executor, flags = arguments.executor, arguments.flags
    given = ("gpus", "time", "flavor", "timeout", "image", "package", "namespace")
    chosen = {name: value for name in given if (value := getattr(arguments, name)) is not None}
    resources = Resources(**chosen, sbatch=tuple(arguments.sbatch))
    if resources.gpus < 0:
        raise SingleLifeError(f"--gpus should be 0 or more, not {resources.gpus}.")
    lives = named_lives(arguments.lives)
    check_jobs(executor, lives, flags)
    text = job_file(executor, lives, flags, resources)
    if arguments.dry_run:
        print(text, end="")
        return 0
    if arguments.submit and executor == "hf-jobs":
        return _submit_to_hub(lives, flags, resources)
    path = write_job_file(arguments.output, executor, text)
    start = ["sbatch" if executor == "slurm" else "bash", str(path)]
    print(f"{path}: {len(lives)} {'life' if len(lives) == 1 else 'lives'} ({', '.join(lives)})")
    if arguments.submit:
        return _call(start)
    print(f"Start with: {' '.join(start)}")
    return 0


def _call(command: list[str]) -> int:
    try:
        return subprocess.run(command).returncode
    except FileNotFoundError as error:
        raise SingleLifeError(
            f"There is no {command[0]} on this machine: submit {command[-1]} where there is one."
        ) from error


def _submit_to_hub(lives: Sequence[str], flags: Sequence[str], resources: "Resources") -> int:
    from singlelife.pretraining.jobs import start_hf_job

    for done, life in enumerate(lives):
        try:
            print(f"{life}: {start_hf_job(life, flags, resources)}", flush=True)
        except HubError as error:
            rest = f" {done} jobs were started; for the others: --lives {' '.join(lives[done:])}" if done else ""
            raise HubError(f"{error}{rest}") from error
    return 0
