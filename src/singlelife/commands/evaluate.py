"""`singlelife evaluate`: what a model's features are worth elsewhere. A file for each task."""

from singlelife.commands import evaluate_all, evaluate_classify, evaluate_correspondence, evaluate_depth
from singlelife.commands.options import Commands


def add_command(commands: Commands) -> None:
    """Describe `singlelife evaluate` and its tasks."""
    command = commands.add_parser(
        "evaluate",
        help="what a model's features are worth elsewhere: correspondence, depth, classification",
        description="What a frozen model's features are worth for other tasks than the one it was trained for.",
    )
    tasks = command.add_subparsers(title="tasks", metavar="TASK", required=True)
    evaluate_correspondence.add_command(tasks)
    evaluate_depth.add_command(tasks)
    evaluate_classify.add_command(tasks)
    evaluate_all.add_command(tasks)
