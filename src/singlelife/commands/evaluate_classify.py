"""`singlelife evaluate classify`: what a frozen encoder knows of things."""

import argparse
import json
from typing import TYPE_CHECKING

from singlelife.commands.evaluate_depth import add_probe_options, data_lines, tell_errors
from singlelife.commands.options import MODEL_HELP, Commands, HelpFormatter, check_json, configure_libraries, report
from singlelife.machine import configure_cpu
from singlelife.text import aligned, in_bytes

if TYPE_CHECKING:
    from singlelife.evaluation.classification import ClassificationEvaluation

_EXAMPLES = """\
examples:
  singlelife evaluate classify runs/sim_1 --data pictures        a folder with one folder of images for each class
  singlelife evaluate classify runs/a runs/b --data ORG/NAME --probe linear --seeds 3 --json classes.json"""


def add_command(commands: Commands) -> None:
    """Describe `singlelife evaluate classify`."""
    command = commands.add_parser(
        "classify",
        help="how well images can be classified by a frozen encoder",
        description="Classification probe: the encoder stays as it is, its features are computed once and kept, and\n"
        "a small probe learns the classes of a data set from them. Beside the models stands an untrained one of\n"
        "the same architecture.",
        epilog=_EXAMPLES,
        formatter_class=HelpFormatter,
    )
    command.add_argument("models", nargs="+", metavar="MODEL", help=MODEL_HELP)
    command.add_argument("--data", required=True, metavar="DATA", help="a folder that datasets opens, or ORG/NAME on "
                         "the Hub, with images and one column of classes")  # fmt: skip
    command.add_argument("--train-split", metavar="SPLIT", help="to train on (default: train)")
    command.add_argument("--test-split", metavar="SPLIT", help="to test on (default: test or validation, else a fifth "
                         "of the only split)")  # fmt: skip
    command.add_argument("--label-column", metavar="NAME", help="where there are several with classes")
    add_probe_options(command)
    command.add_argument("--no-baselines", action="store_true", help="leave out the untrained model")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    check_json(arguments.json)
    configure_cpu()

    from singlelife.evaluation.classification import evaluate_classification, open_labelled
    from singlelife.evaluation.probing import ProbeSettings

    configure_libraries(arguments.device)
    train, test = open_labelled(
        arguments.data,
        train_split=arguments.train_split,
        test_split=arguments.test_split,
        label_column=arguments.label_column,
    )
    evaluation = evaluate_classification(
        arguments.models,
        train,
        test,
        ProbeSettings(arguments.probe, arguments.epochs, arguments.batch_size, arguments.learning_rate),
        range(arguments.seeds),
        baselines=not arguments.no_baselines,
        device=arguments.device,
        batch_size=arguments.batch_size,
        cache_dir=arguments.cache_dir,
    )
    report(json.dumps(evaluation.to_dict(), indent=2), arguments.json, table(evaluation))
    return tell_errors(evaluation.rows)


def table(evaluation: "ClassificationEvaluation") -> str:
    """The results for people."""
    lines = [
        f"Classification by a frozen encoder and a probe ({evaluation.settings['probe']}, {len(evaluation.seeds)} "
        f"seeds, {evaluation.settings['epochs']} epochs)"
    ]
    for role, data in (("train", evaluation.train), ("test", evaluation.test)):
        if "data_hash" in data:
            lines.append(f"{role:<5} {data['name']}: {data['num_items']:,} images, data {data['data_hash'][:12]}")
            lines += data_lines(data)
    if evaluation.chance is not None:
        lines.append(f"always the most frequent class: {evaluation.chance:.3f}")
    rows = [["", "top-1", "95% interval", "hardest class", "easiest class", "images/s", "peak memory"]]
    for row in evaluation.rows:
        if row.top1 is None:
            continue
        known = sorted((share, name) for name, share in row.per_class.items() if share is not None)
        spread = f" ± {row.top1.std:.3f}" if len(row.top1.per_seed) > 1 else ""
        rows.append([
            row.model,
            f"{row.top1.mean:.3f}{spread}",
            f"{row.top1.low:.3f} to {row.top1.high:.3f}",
            f"{known[0][1]} {known[0][0]:.2f}",
            f"{known[-1][1]} {known[-1][0]:.2f}",
            f"{row.images_per_second:.0f}",
            in_bytes(row.peak_memory_bytes or 0),
        ])  # fmt: skip
    lines += ["", aligned(rows), "", "± is the standard deviation over seeds; all classes are in --json."]
    return "\n".join(lines)
