"""The models that this Space starts with, made from training runs: weights in half precision, and nothing to run.

    accelerate launch train.py --life sim_1    # and sim_2 and sim_still
    python spaces/cas/make_models.py runs/sim_1 runs/sim_2 runs/sim_still

Each becomes a folder of `spaces/cas/models`, of the run's name, with `model.safetensors`, `config.json`,
`preprocessor_config.json` and a README.md that says where it is from. What is there of that name is replaced.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file

from singlelife.text import in_bytes

_HERE = Path(__file__).parent
_LARGEST = 4_000_000  # bytes of weights, so that the Space stays a small repository
_README = """\
---
license: apache-2.0
library_name: singlelife
tags: [singlelife, croco]
---

# {name}

A CroCo of {parameters:.1f} million parameters, pretrained on the simulated life `{life}` (seed {seed}, {steps:,}
steps of {batch} pairs) by

    accelerate launch train.py --life {life}{flags}

and rounded to half precision by

    python spaces/cas/make_models.py runs/{name}

Frames of the life are of Freedoom (BSD-3-Clause), rendered by ViZDoom (MIT).
"""


def convert(run: Path, output: Path) -> int:
    """Write a run's finished model as a folder of half-precision weights.

    Returns:
        The size of the weights, in bytes.

    Raises:
        ValueError: it is too large to be shipped, or a weight does not fit into half precision.
        OSError: the run has no finished model.
    """
    weights = {name: weight.half() for name, weight in load_file(run / "model.safetensors").items()}
    overflowed = [name for name, weight in weights.items() if not torch.isfinite(weight).all()]
    if overflowed:
        raise ValueError(f"{run}: {overflowed[0]} does not fit into half precision.")
    size = sum(weight.numel() * 2 for weight in weights.values())
    if size > _LARGEST:
        raise ValueError(
            f"{run}: its weights are {size / 1e6:.1f} MB in half precision, over {_LARGEST / 1e6:.0f} MB."
        )
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    config = {name: value for name, value in config.items() if name != "auto_map"} | {"dtype": "float16"}
    settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    aside = output.with_name(f".{output.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file(weights, aside / "model.safetensors", metadata={"format": "pt"})
    (aside / "model.safetensors").chmod(0o644)
    (aside / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    processor = json.loads((run / "preprocessor_config.json").read_text(encoding="utf-8"))
    processor.pop("auto_map", None)
    (aside / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
    (aside / "README.md").write_text(
        _README.format(
            name=output.name,
            parameters=sum(weight.numel() for weight in weights.values()) / 1e6,
            life=settings["life"],
            seed=settings["seed"],
            steps=settings["max_steps"],
            batch=settings["train_batch_size"],
            flags=f" --seed {settings['seed']}" if settings["seed"] else "",
        ),
        encoding="utf-8",
    )
    shutil.rmtree(output, ignore_errors=True)
    aside.rename(output)
    return size


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument(
        "--output", type=Path, default=_HERE / "models", metavar="DIR", help="where to (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    for run in arguments.runs:
        try:
            size = convert(run, arguments.output / run.resolve().name)
        except (OSError, ValueError) as error:
            print(f"{run} was not converted: {error}", file=sys.stderr)
            return 2
        print(f"{arguments.output / run.resolve().name}: {in_bytes(size)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
