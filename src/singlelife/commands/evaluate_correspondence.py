"""`singlelife evaluate correspondence`: matches between two views, without any training for it."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from singlelife.commands.options import (
    METHODS,
    MODEL_HELP,
    VIEWS,
    Commands,
    HelpFormatter,
    above_zero,
    add_cache_dir,
    aligned,
    check_json,
    check_output,
    configure_libraries,
    positive,
    report,
)
from singlelife.errors import CheckpointError

if TYPE_CHECKING:
    from singlelife.alignment.models import AttentionMapProvider
    from singlelife.evaluation.correspondence import ModelResult
    from singlelife.evaluation.flow import Matching
    from singlelife.evaluation.image_pairs import PairData

_DESCRIPTION = """\
How far from the truth a model's matches are, in pixels: its cross-attention (or the correlation of its features)
as cost volume, as in ZeroCo. Beside each model stand the same architecture untrained, and the identity flow, which
looks straight ahead."""
_EXAMPLES = """\
examples:
  singlelife evaluate correspondence runs/sim_1 runs/sim_2 --data sim_test
  singlelife evaluate correspondence ORG/model --data hpatches-sequences-release --json out.json --sheet out.png
  singlelife evaluate correspondence runs/sim_1 --data graf1.png graf3.png --homography H1to3p.xml
  singlelife evaluate correspondence runs/sim_1 --data aloeL.jpg aloeR.jpg --disparity aloeGT.png

exit code: 0; 1 if some pairs or models could not be measured, which are named; 2 if none could, or for wrong usage"""


def add_command(tasks: Commands) -> None:
    """Describe `singlelife evaluate correspondence`."""
    command = tasks.add_parser(
        "correspondence",
        help="zero-shot matches between two views: average end-point error and PCK",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=HelpFormatter,
    )
    command.add_argument("models", nargs="+", metavar="MODEL", help=MODEL_HELP)
    command.add_argument(
        "--data", nargs="+", required=True, metavar="DATA",
        help="the folder of HPatches' sequences; or a life (its name, a prepared folder, ORG/NAME) or stored pair set "
        "with known matches, such as sim_test; or two images, REFERENCE OTHER with --homography or LEFT RIGHT with "
        "--disparity",
    )  # fmt: skip
    command.add_argument("--homography", type=Path, metavar="FILE", help="of the two images: maps pixels of REFERENCE "
                         "to those of OTHER; text, OpenCV's XML, YAML or JSON, or .npy")  # fmt: skip
    command.add_argument("--disparity", type=Path, metavar="FILE", help="of the left image, PNG (0: unknown) or PFM")
    command.add_argument("--disparity-scale", type=float, metavar="PX", help="pixels for each level of --disparity "
                         "(default: 1; 1/256 for PNGs of 16 bits)")  # fmt: skip
    command.add_argument("--split", default="viewpoint", choices=("viewpoint", "illumination"),
                         help="which of HPatches' sequences (default: %(default)s)")  # fmt: skip
    command.add_argument("--views", default="plain", choices=VIEWS,
                         help="how pairs are cut from a life, see singlelife cas (default: %(default)s)")  # fmt: skip
    command.add_argument("--num-pairs", type=positive, default=384, metavar="N", help="pairs to draw from a "
                         "life (default: %(default)s)")  # fmt: skip
    command.add_argument("--method", choices=METHODS, help="what matches are read from (default: of a CroCo "
                         "the cross-attention, of any other model the correlation of its features)")  # fmt: skip
    command.add_argument("--layers", type=int, nargs="+", metavar="L", help="which blocks, from 0, or from -1 "
                         "backwards (default: all for cross-attention, else the last)")  # fmt: skip
    command.add_argument("--no-reciprocal", action="store_true", help="read one direction only, not the mean of both")
    command.add_argument("--sinks", choices=("first", "keep"), help="first: no patch matches the other view's first "
                         "patch, a sink (default for cross-attention); keep: any may")  # fmt: skip
    command.add_argument("--temperature", type=above_zero, default=1e-4, metavar="T", help="of the soft-argmax "
                         "(default: %(default)s)")  # fmt: skip
    command.add_argument("--no-baselines", action="store_true", help="leave out the untrained models and the identity")
    command.add_argument("--seed", type=int, default=0, help="of drawn pairs and the bootstrap (default: %(default)s)")
    command.add_argument("--batch-size", type=positive, default=8, metavar="N", help="pairs at once, of which memory "
                         "holds no more (default: %(default)s)")  # fmt: skip
    command.add_argument("--device", default="cpu", help="where the models run (default: %(default)s)")
    command.add_argument("--json", metavar="FILE", help="write all results as JSON, pair by pair; - prints them "
                         "instead of the table")  # fmt: skip
    command.add_argument("--sheet", type=Path, metavar="FILE", help="draw matches and warped images into a PNG")
    command.add_argument("--no-progress", action="store_true", help="no progress bars on stderr")
    add_cache_dir(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from singlelife.machine import configure_cpu

    configure_cpu()
    from singlelife.evaluation.correspondence import evaluate_correspondence
    from singlelife.evaluation.correspondence_data import open_pairs
    from singlelife.evaluation.correspondence_sheet import Matches, draw_correspondence, matches_of, sheet_pairs

    configure_libraries(arguments.device)
    check_json(arguments.json)
    if arguments.sheet:
        check_output("--sheet", arguments.sheet)
    models = _models(arguments)
    data = open_pairs(
        arguments.data,
        homography=arguments.homography,
        disparity=arguments.disparity,
        disparity_scale=arguments.disparity_scale,
        split=arguments.split,
        views=arguments.views,
        num_pairs=arguments.num_pairs,
        seed=arguments.seed,
        cache_dir=arguments.cache_dir,
    )
    results, failed = [], {}
    shown = sheet_pairs(data) if arguments.sheet else []
    drawn: list[Matches] = []
    for number, model in enumerate(models):
        matching = None if model is None else _matching(model, arguments)
        try:
            result = evaluate_correspondence(
                model,
                data,
                matching=matching,
                batch_size=arguments.batch_size,
                device=arguments.device,
                seed=arguments.seed,
                progress=not arguments.no_progress,
            )
        except CheckpointError as error:  # its maps are not finite; the others are worth their hours
            if len(models) == 1:
                raise
            assert model is not None
            failed[model.name] = str(error)
            continue
        results.append(result)
        if model is not None and shown and number < len(arguments.models):  # the baselines after them are not drawn
            drawn.append(matches_of(model, shown, matching))
    if arguments.sheet and drawn:
        draw_correspondence(arguments.sheet, data.name, shown, drawn)
    text = f"{_heading(data, results)}\n{_table(data, results)}\n{_cost(results[0])}"
    report(json.dumps(_fields(data, results, failed), indent=2), arguments.json, text)
    failures = results[0].failures
    if failures:
        print(f"singlelife: {len(failures)} of {len(data)} pairs could not be measured:", file=sys.stderr)
        for pair, why in list(failures.items())[:20]:
            print(f"  {pair}: {why}", file=sys.stderr)
        if len(failures) > 20:
            print(f"  and {len(failures) - 20} more (--json names them all)", file=sys.stderr)
    for why in failed.values():
        print(f"singlelife: not measured: {why}", file=sys.stderr)
    return 1 if failures or failed else 0


def _models(arguments: argparse.Namespace) -> "list[AttentionMapProvider | None]":
    """The models, then the baselines: each architecture untrained, and None, the identity flow."""
    from singlelife.alignment.models import load_model

    def load(spec: str) -> "AttentionMapProvider":
        return load_model(spec, arguments.device, method=arguments.method, layers=arguments.layers)

    models: list[AttentionMapProvider | None] = [load(spec) for spec in arguments.models]
    if arguments.no_baselines:
        return models
    seen = {model.revision for model in models if model}
    for spec in arguments.models:
        if not spec.startswith("untrained:"):
            untrained = load(f"untrained:{spec}@0")
            if untrained.revision not in seen:
                seen.add(untrained.revision)
                models.append(untrained)
    return [*models, None]


def _matching(model: "AttentionMapProvider", arguments: argparse.Namespace) -> "Matching":
    from singlelife.evaluation.flow import usual_matching

    matching = replace(
        usual_matching(model.method), reciprocal=not arguments.no_reciprocal, temperature=arguments.temperature
    )
    return replace(matching, sinks=arguments.sinks) if arguments.sinks else matching


def _fields(data: "PairData", results: "list[ModelResult]", failed: dict[str, str]) -> dict[str, object]:
    from singlelife import __version__
    from singlelife.evaluation.correspondence import PROTOCOL, THRESHOLDS

    return {
        "protocol": PROTOCOL,
        "data": {
            "name": data.name,
            "kind": data.kind,
            "num_pairs": len(data),
            "hash": results[0].data_hash,
            "left_out": data.left_out,
        },
        "pck_thresholds": THRESHOLDS,
        "models": [result.to_dict() for result in results],
        "failed_models": failed,
        "version": __version__,
    }


def _heading(data: "PairData", results: "list[ModelResult]") -> str:
    count = f"{len(results[0].pairs)} pairs" if len(results[0].pairs) > 1 else "1 pair"
    if data.left_out:
        count += f", {len(data.left_out)} more left out as their views have nothing in common"
    ways: dict[str, list[str]] = {}
    for result in results:
        if matching := result.matching:
            directions = "both directions" if matching.reciprocal else "one direction"
            sinks = {"first": "first patch masked", "keep": "sinks kept"}[matching.sinks]
            way = f"{result.method}, {directions}, {sinks}, temperature {matching.temperature:g}"
            ways.setdefault(way, []).append(result.model)
    lines = list(ways) if len(ways) < 2 else [f"{', '.join(models)}: {way}" for way, models in ways.items()]
    return "\n".join([f"zero-shot correspondence on {data.name}, {count} ({results[0].data_hash[:12]})", *lines, ""])


def _table(data: "PairData", results: "list[ModelResult]") -> str:
    """Rows of models, by resolution: the AEPE of each level and of all with its interval, and the PCK."""
    from singlelife.evaluation.correspondence import RESOLUTIONS, THRESHOLDS

    levels = data.levels if len(data.levels) > 1 else ()
    lines = []
    for resolution, side in RESOLUTIONS.items():
        unit = f"px of images of {side}x{side}" if side else "px of the source image"
        header = ("MODEL", *levels, "AEPE", "95% INTERVAL", *(f"PCK@{threshold}" for threshold in THRESHOLDS))
        rows: list[tuple[str, ...]] = [header]
        for result in results:
            summary = result.summary[resolution]
            by_level = (summary.levels[level] for level in levels)
            rows.append(
                (
                    result.model,
                    *("-" if value is None else f"{value:.2f}" for value in by_level),
                    f"{summary.aepe:.2f}",
                    f"{summary.low:.2f} to {summary.high:.2f}" if len(result.pairs) > 1 else "one pair",
                    *(f"{share:.1%}" for share in summary.pck),
                )
            )
        lines += [f"in {unit}; AEPE: lower is better, PCK: higher is better", aligned(rows), ""]
    return "\n".join(lines[:-1])


def _cost(result: "ModelResult") -> str:
    from singlelife.text import in_bytes

    memory = "" if result.peak_memory is None else f", {in_bytes(result.peak_memory)} of memory at the peak"
    return f"\n{result.model}: {result.images_per_second:.1f} images/s, reading and measuring included{memory}"
