"""`singlelife evaluate all`: a suite of tasks on many models, and their comparison."""

import argparse
import sys
from pathlib import Path

from singlelife.commands.options import (
    MODEL_HELP,
    Commands,
    HelpFormatter,
    add_cache_dir,
    check_folder,
    configure_libraries,
    named_groups,
    positive,
)
from singlelife.errors import SingleLifeError

SOME_FAILED = 1  # exit code

_DESCRIPTION = """\
Run a suite of tasks on models, one results file each, and compare all models whose results are in the folder:
comparison.md, comparison.csv and comparison.html (with its pictures inside).

A run that was stopped goes on with the same command. A result of the same protocol, settings, data and weights is
kept; one more model costs one more run. Beside the models stand untrained ones of each architecture, the identity
flow and the mean depth. Without MODEL, what is in the folder is compared anew."""
_EXAMPLES = """\
suites:
  simulated   depth and correspondence on an unseen simulated map; needs no data of others
  paper       NYU Depth V2, ScanNet and HPatches: --data nyu=FOLDER scannet=FOLDER hpatches=FOLDER, or some of them
  photos      two real pairs of OpenCV's samples: --data opencv=FOLDER
  FILE.yaml   your own, like those in hub_configs/evaluations

examples:
  singlelife evaluate all runs/sim_1 runs/sim_still --output transfer
  singlelife evaluate all runs/sim_1 runs/sim_1_seed1 runs/sim_2 untrained:tiny@0..2 --output transfer --fold-seeds
  singlelife evaluate all ORG/A ORG/B --suite paper --data nyu=/data/nyu --output nyu --groups lives=ORG/A more=ORG/B
  singlelife push runs/sim_1 --results transfer/sim_1.json          the numbers in the model's card

exit code: 0; 1 if something failed, which is named, and all else is there; 2 if nothing could be done"""


def add_command(tasks: Commands) -> None:
    """Describe `singlelife evaluate all`."""
    command = tasks.add_parser(
        "all",
        help="a suite of these tasks on many models, kept and compared",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=HelpFormatter,
    )
    command.add_argument("models", nargs="*", metavar="MODEL", help=f"{MODEL_HELP}; untrained:MODEL@0..2 is three")
    command.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of results and comparison")
    command.add_argument("--suite", default="simulated", metavar="SUITE", help="see below (default: %(default)s)")
    command.add_argument("--data", nargs="+", default=[], metavar="NAME=FOLDER", help="folders that the suite names; "
                         "tasks of others are left out")  # fmt: skip
    command.add_argument("--tasks", nargs="+", default=[], metavar="TASK", help="some of the suite's (default: all)")
    command.add_argument("--groups", nargs="+", default=[], metavar="NAME=M1,M2", help="which models belong together "
                         "(default: those of lives of one data set, which their names tell)")  # fmt: skip
    command.add_argument("--fold-seeds", action="store_true", help="one row, mean ± std, of models whose names differ "
                         "in the seed alone: runs/sim_1 and runs/sim_1_seed1, untrained:tiny@0 and @1")  # fmt: skip
    command.add_argument("--untrained-seeds", type=positive, default=1, metavar="N", help="untrained models beside "
                         "those of an architecture, where you name none (default: %(default)s)")  # fmt: skip
    command.add_argument("--probe-seeds", type=positive, metavar="N", help="probes for each model, instead of the "
                         "suite's number; of models of several seeds, one each is enough")  # fmt: skip
    command.add_argument("--no-baselines", action="store_true", help="leave out the untrained models, the identity "
                         "flow and the mean depth")  # fmt: skip
    command.add_argument("--batch-size", type=positive, default=8, metavar="N", help="pairs at once (default: "
                         "%(default)s)")  # fmt: skip
    command.add_argument("--device", default="cpu", help="where the models run (default: %(default)s)")
    command.add_argument("--no-progress", action="store_true", help="no progress bars, and no word of each result")
    add_cache_dir(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    groups, folders = named_groups(arguments.groups), _folders(arguments.data)
    check_folder("--output", arguments.output)
    from singlelife.machine import configure_cpu

    configure_cpu()
    from singlelife.evaluation.suite.comparison import compare
    from singlelife.evaluation.suite.page import write_comparison
    from singlelife.evaluation.suite.results import all_results
    from singlelife.evaluation.suite.running import Outcome, check_groups, evaluate_suite
    from singlelife.evaluation.suite.settings import read_suite
    from singlelife.evaluation.suite.tables import as_text
    from singlelife.evaluation.suite.tasks import Machine

    configure_libraries(arguments.device)
    folder, outcome = arguments.output, Outcome([])
    check_groups(groups, arguments.models, folder)
    tasks, left_out, title = list[str](), dict[str, str](), f"Models in {folder.absolute().name}"
    if arguments.models:
        suite = read_suite(arguments.suite, folders)
        suite = suite.only(arguments.tasks) if arguments.tasks else suite
        suite = suite.with_probe_seeds(arguments.probe_seeds) if arguments.probe_seeds else suite
        tasks, left_out, title = (
            list(suite.tasks),
            suite.left_out,
            f"{suite.name} {suite.version}: {suite.description}",
        )
        outcome = evaluate_suite(
            arguments.models,
            suite,
            folder,
            untrained_seeds=arguments.untrained_seeds,
            baselines=not arguments.no_baselines,
            machine=Machine(
                arguments.device, arguments.batch_size, arguments.cache_dir, progress=not arguments.no_progress
            ),
        )
    problems = [_told(each.model, each.task, each.why) for each in outcome.problems]
    found = all_results(folder) if folder.is_dir() else []
    if not any(each.tasks for each in found):
        raise SingleLifeError("\n".join(["There are no results to compare.", *problems]))
    comparison = compare(
        found,
        title,
        tasks=tasks,
        first=outcome.models,
        groups=groups,
        fold_seeds=arguments.fold_seeds,
        problems=problems,
        left_out=[f"{task}: it needs --data {place}=FOLDER" for task, place in left_out.items()],
    )
    paths = write_comparison(comparison, folder)
    print(as_text(comparison))
    for line in comparison.left_out:
        print(f"left out: {line}")
    print(f"\n{outcome.num_measured} results computed, {outcome.num_kept} kept. {', '.join(map(str, paths))}")
    for line in problems:
        print(f"singlelife: {line}", file=sys.stderr)
    return SOME_FAILED if problems else 0


def _folders(words: list[str]) -> dict[str, str]:
    folders = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not (name and equals and folder):
            raise SingleLifeError(f"--data takes NAME=FOLDER, not {word!r}.")
        folders[name] = folder
    return folders


def _told(model: str, task: str, why: str) -> str:
    what = " in ".join(word for word in (model or "all models", task) if word)
    return f"{what}: {why}"
