"""`singlelife study`: trainings, scores and evaluations in order, none twice, and a report."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from singlelife.commands.options import Commands, HelpFormatter, add_cache_dir
from singlelife.errors import StudyError

if TYPE_CHECKING:
    from singlelife.study.steps import Plan
    from singlelife.study.study_file import Study

SOME_FAILED = 1  # exit code

_EPILOG = """\
examples:
  singlelife study shared_world --dry-run               what it will do, and how long that takes
  singlelife study shared_world                         do it; the same again goes on where it was
  singlelife study shared_world --question emergence    only what one question needs
  singlelife study shared_world --report                the report on what is there so far
  singlelife study paper --executor slurm               write jobs for a cluster
  singlelife study two_kitchens.yaml                    one of your own

exit code: 0; 1 if a step failed (the others went on); 2 for a mistake in the file; 130 if interrupted"""


def add_command(commands: Commands) -> None:
    """Describe `singlelife study`."""
    command = commands.add_parser(
        "study",
        help="train, score and evaluate many models in order, and report",
        description="Do what a study file says: prepare lives, train each model alone, score, evaluate, report. Every "
        "step is a command of this package, shown as it starts. Its output is kept by all that it depends on: the "
        "same command again goes on where it was, and does only what is missing.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    command.add_argument(
        "study", metavar="STUDY", help="the name of one that is shipped (shared_world, paper), or a YAML file; "
        "docs/study.md says how to write one"
    )  # fmt: skip
    command.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of its steps and its report (default: studies/STUDY)"
    )
    what = command.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="say what it would do and how long that takes")
    what.add_argument("--report", action="store_true", help="only write the report, on what there is")
    command.add_argument(
        "--question",
        action="append",
        default=[],
        metavar="NAME",
        help="only what this question needs; may be repeated",
    )
    command.add_argument(
        "--only", action="append", default=[], metavar="STEP", help="only this step, as --dry-run names it, once what "
        "it needs is there; may be repeated, and run beside other studies' steps"
    )  # fmt: skip
    command.add_argument("--side-by-side", type=int, metavar="N", help="steps at once, instead of the file's")
    command.add_argument("--threads", type=int, metavar="N", help="threads of each step, instead of the file's")
    command.add_argument(
        "--executor", choices=("local", "slurm", "hf-jobs"), help="who runs the steps, instead of the file's; slurm "
        "and hf-jobs write jobs into DIR/jobs"
    )  # fmt: skip
    add_cache_dir(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from singlelife.pretraining.arguments import config_path
    from singlelife.study.study_file import read_study

    study = read_study(config_path("studies", arguments.study))
    given = ("side_by_side", "threads", "executor")
    chosen = {name: value for name in given if (value := getattr(arguments, name)) is not None}
    if wrong := [name for name in ("side_by_side", "threads") if chosen.get(name, 1) < 1]:
        raise StudyError(f"--{wrong[0].replace('_', '-')} should be 1 or more.")
    study = dataclasses.replace(study, run=dataclasses.replace(study.run, **chosen))
    folder = arguments.output or Path("studies") / study.path.stem
    from singlelife.study.steps import plan_study

    plan = plan_study(study, folder, arguments.cache_dir)
    wanted = _wanted(study, plan, arguments)
    if not (arguments.question or arguments.only):
        for name, lives in plan.left_out.items():
            print(f"The question {name} is left out: {', '.join(lives)} not here. `singlelife lives show NAME` says "
                  "how to get it.")  # fmt: skip
    if arguments.dry_run:
        from singlelife.study.outlook import outlook

        print(outlook(study, plan, folder, wanted))
        return 0
    if arguments.report:
        return _report(study, plan, folder)
    if study.run.executor != "local":
        from singlelife.study.jobs import write_jobs

        print(write_jobs(study, plan, folder, wanted, arguments.cache_dir))
        return 0
    return _run_here(study, plan, folder, wanted, report=not arguments.only)


def _wanted(study: "Study", plan: "Plan", arguments: argparse.Namespace) -> list[str]:
    """The steps to make, without those that they need."""
    if unknown := [name for name in arguments.question if name not in study.questions]:
        raise StudyError(f"There is no question {unknown[0]!r}; there are {', '.join(study.questions)}.")
    if unknown := [name for name in arguments.only if name not in plan.steps]:
        raise StudyError(f"There is no step {unknown[0]!r}; --dry-run names them all.")
    if arguments.only:
        return arguments.only
    if arguments.question:
        return [step for name in arguments.question for step in plan.questions[name]]
    return plan.wanted


def _run_here(study: "Study", plan: "Plan", folder: Path, wanted: list[str], *, report: bool) -> int:
    from singlelife.study.runner import Runner, locked

    with locked(folder, "" if report else wanted[0]) as lock:
        runner = Runner(plan, folder, study.run, lock)
        outcome = runner(plan.needed_by(wanted) if report else wanted)
    if report:
        _report(study, plan, folder)
    if outcome.good:
        return 0
    print(f"{len(outcome.failed)} step(s) failed, and {len(outcome.left)} that need them were not made:")
    for name, why in outcome.failed.items():
        print(f"  {name}: {why}")
    print("Mend what is said there, and give the same command again: it goes on with what is missing.")
    return SOME_FAILED


def _report(study: "Study", plan: "Plan", folder: Path) -> int:
    from singlelife.study.report import write_report

    print(f"The report is in {write_report(study, plan, folder)}")
    return 0
