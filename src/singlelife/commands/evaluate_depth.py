"""`singlelife evaluate depth`: what a frozen encoder knows of depth."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from singlelife.commands.options import (
    MODEL_HELP,
    Commands,
    HelpFormatter,
    above_zero,
    add_cache_dir,
    check_json,
    check_output,
    configure_libraries,
    positive,
    report,
)
from singlelife.errors import SingleLifeError
from singlelife.machine import configure_cpu
from singlelife.text import aligned, in_bytes

if TYPE_CHECKING:
    from singlelife.evaluation.depth import DepthEvaluation, DepthRow

_DATA = """\
where depth comes from (--train and --test):
  sim_1 sim_test        names of lives, or folders of prepared ones, with depth (simulated ones have it)
  FOLDER                with nyu_depth_v2_labeled.mat and splits.mat; or with ScanNet scenes (scene0000_00/color and
                        depth); or a data set that `datasets` opens, with columns image and depth (or depth_map)
  ORG/NAME              such a data set on the Hub

examples:
  singlelife evaluate depth runs/sim_1 runs/sim_still --train sim_1 --test sim_test --sheet depth.png
  singlelife evaluate depth ORG/MODEL --train /data/nyu --test /data/nyu --seeds 3 --json nyu.json
  singlelife evaluate depth runs/a --train scans --train-split train.txt --test scans --test-split val.txt"""

_TITLES = {"delta1": "δ1", "delta2": "δ2", "delta3": "δ3", "abs_rel": "AbsRel", "rmse": "RMSE m", "log10": "log10"}


def add_command(commands: Commands) -> None:
    """Describe `singlelife evaluate depth`."""
    command = commands.add_parser(
        "depth",
        help="how well depth can be read from a frozen encoder",
        description="Depth probe: the encoder stays as it is, its features are computed once and kept, and a small\n"
        "probe learns to read metric depth from them; then it is tested on frames of other places. Beside the\n"
        "models stand an untrained one of the same architecture, and the mean depth.",
        epilog=_DATA,
        formatter_class=HelpFormatter,
    )
    command.add_argument("models", nargs="+", metavar="MODEL", help=MODEL_HELP)
    data = command.add_argument_group("data")
    data.add_argument("--train", nargs="+", required=True, metavar="DATA", help="frames to train the probe on")
    data.add_argument("--test", nargs="+", required=True, metavar="DATA", help="frames to test it on")
    for role in ("train", "test"):
        data.add_argument(f"--{role}-split", metavar="SPLIT", help="name of the split; for ScanNet a file that lists "
                          f"the scenes (default: {role})")  # fmt: skip
        data.add_argument(f"--num-{role}", type=positive, metavar="N", help="take this many frames, evenly spread "
                          "(default: all)")  # fmt: skip
    data.add_argument("--depth-scale", type=above_zero, metavar="M", help="metres of one unit of the stored depth, "
                      "where the data do not tell")  # fmt: skip
    data.add_argument("--depth-column", metavar="NAME", help="of a data set (default: raw_depth, depth or depth_map)")
    data.add_argument("--protocol", choices=("nyu", "scannet", "metric", "simulated"), help="which pixels count: nyu "
                      "has the Eigen crop; range and crop are printed (default: by the data)")  # fmt: skip
    data.add_argument("--max-depth", type=above_zero, metavar="M", help="the cap in metres, instead of the protocol's")
    add_probe_options(command)
    command.add_argument(
        "--no-baselines", action="store_true", help="leave out the untrained model and the mean depth"
    )
    command.add_argument("--sheet", type=Path, metavar="PNG", help="draw depth maps of some test frames")
    command.add_argument(
        "--save",
        type=Path,
        metavar="FOLDER",
        help="save the (CroCo) model with the probe of the first seed, for "
        "pipeline('depth-estimation', model=FOLDER, trust_remote_code=False)",
    )
    command.set_defaults(run=run)


def add_probe_options(command: argparse.ArgumentParser) -> None:
    """Add what all commands that train probes have."""
    probe = command.add_argument_group("probe")
    probe.add_argument(
        "--probe",
        default="attentive",
        choices=("attentive", "linear"),
        help="attentive: learned queries and one cross-attention block; linear: one layer on each token "
        "(default: %(default)s)",
    )
    probe.add_argument("--seeds", type=positive, default=3, metavar="N", help="probes to train (default: %(default)s)")
    probe.add_argument("--epochs", type=positive, default=20, metavar="N", help="(default: %(default)s)")
    probe.add_argument("--learning-rate", type=above_zero, default=1e-3, metavar="X", help="(default: %(default)s)")
    probe.add_argument("--batch-size", type=positive, default=32, metavar="N", help="images per step, and at once for "
                       "the encoder (default: %(default)s)")  # fmt: skip
    command.add_argument("--device", default="cpu", help="where the models run (default: %(default)s)")
    command.add_argument("--json", metavar="FILE", help="write all fields as JSON; - prints them instead of the table")
    add_cache_dir(command)


def run(arguments: argparse.Namespace) -> int:
    check_json(arguments.json)
    if arguments.sheet:
        check_output("--sheet", arguments.sheet)
    configure_cpu()
    if arguments.save:
        check_output("--save", arguments.save)
        if arguments.save.exists():
            raise SingleLifeError(
                f"--save {arguments.save}: it is there already. Remove it, or choose another folder."
            )
        if len(arguments.models) > 1:
            raise SingleLifeError("--save takes one model; here are several.")

    from singlelife.evaluation.depth import ProbedModel, croco_of, evaluate_depth, save_depth_model
    from singlelife.evaluation.depth_data import open_depth
    from singlelife.evaluation.depth_frames import DepthOptions
    from singlelife.evaluation.depth_sheet import Maps, draw_sheet, maps_of, sheet_rows
    from singlelife.evaluation.probing import ProbeSettings

    configure_libraries(arguments.device)
    options = DepthOptions(
        depth_scale=arguments.depth_scale,
        depth_column=arguments.depth_column,
        protocol=arguments.protocol,
        max_depth=arguments.max_depth,
        cache_dir=arguments.cache_dir,
    )
    train, test = (
        open_depth(
            getattr(arguments, role),
            role,
            dataclasses.replace(
                options, split=getattr(arguments, f"{role}_split"), limit=getattr(arguments, f"num_{role}")
            ),
        )
        for role in ("train", "test")
    )
    if arguments.save:
        from singlelife.alignment.models import load_model

        croco_of(load_model(arguments.models[0]))  # says that it cannot be saved before hours are spent on it
    settings = ProbeSettings(arguments.probe, arguments.epochs, arguments.batch_size, arguments.learning_rate)
    maps: list[Maps] = []
    shown: list[int] = []  # frames of the sheet

    def keep(probed: ProbedModel) -> None:
        if arguments.sheet:
            indices = sheet_rows(len(probed.test))
            shown[:] = [int(probed.test.rows[index]) for index in indices]
            maps.append(maps_of(probed, test, indices, arguments.device))
        if arguments.save and probed.encoder.name == arguments.models[0]:
            save_depth_model(probed, arguments.save, test)

    evaluation = evaluate_depth(
        arguments.models,
        train,
        test,
        settings,
        range(arguments.seeds),
        baselines=not arguments.no_baselines,
        device=arguments.device,
        batch_size=arguments.batch_size,
        cache_dir=arguments.cache_dir,
        on_model=keep,
    )
    if maps:
        draw_sheet(arguments.sheet, test, shown, maps)
    text = table(evaluation, {"train": train.note, "test": test.note})
    report(json.dumps(evaluation.to_dict(), indent=2), arguments.json, text)
    return tell_errors(evaluation.rows)


def tell_errors(rows: Sequence[Any]) -> int:
    """Say which models could not be evaluated, and give the exit code."""
    wrong = [row for row in rows if row.error]
    for row in wrong:
        print(f"singlelife: {row.model}: {row.error}", file=sys.stderr)
    return SingleLifeError.exit_code if wrong else 0


def table(evaluation: "DepthEvaluation", notes: dict[str, str]) -> str:
    """The results for people; notes are of the train and test data."""
    protocol, train, test = evaluation.protocol, evaluation.train, evaluation.test
    crop = "the Eigen crop" if protocol["crop"] else "no crop"
    lines = [
        f"Depth by a frozen encoder and a probe ({evaluation.settings['probe']}, {len(evaluation.seeds)} seeds, "
        f"{evaluation.settings['epochs']} epochs)",
        f"protocol {protocol['name']} {protocol['version']}: metres from {protocol['min_depth']:g} to "
        f"{protocol['max_depth']:g}, {crop}, mean over images",
    ]
    for role, data in (("train", train), ("test", test)):
        if "data_hash" in data:
            lines.append(f"{role:<5} {data['name']}: {data['num_items']:,} frames, data {data['data_hash'][:12]}")
            lines += data_lines(data)
        if notes[role]:
            lines.append(f"      note: {notes[role]}")
    rows = [["", *_TITLES.values(), "images/s", "peak memory"]]
    rows += [_cells(row) for row in evaluation.rows if not row.error]
    lines += ["", aligned(rows)]
    lines += [
        "",
        "± is the standard deviation over seeds; the 95% intervals over images are in --json. images/s is that of "
        "encoding the test frames.",
    ]
    return "\n".join(lines)


def data_lines(data: dict[str, Any]) -> list[str]:
    """What to know of data: what of it could not be used (the first three, and how many more), and what is in both."""
    lines = []
    if left_out := data["left_out"]:
        more = f" (and {len(left_out) - 3:,} more)" if len(left_out) > 3 else ""
        lines.append(f"      left out {len(left_out):,}: {'; '.join(left_out[:3])}{more}")
    if data.get("also_trained_on"):
        lines.append(f"      note: {data['also_trained_on']:,} of these are among the training data too")
    return lines


def _cells(row: "DepthRow") -> list[str]:
    cells = [row.model]
    for name in _TITLES:
        measure = row.measures[name]
        spread = f" ± {measure.std:.3f}" if len(measure.per_seed) > 1 else ""
        cells.append(f"{measure.mean:.3f}{spread}")
    cells.append("" if row.feature_images_per_second is None else f"{row.feature_images_per_second:.0f}")
    cells.append(in_bytes(row.peak_memory_bytes) if row.peak_memory_bytes else "")
    return cells
