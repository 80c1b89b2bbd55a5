"""Does a model of lives that stay at home know more than a model of one life? One table for a study:

    python table.py study.toml

It trains each life alone, the federations, and all lives of a federation together (pooled, which breaks privacy), with
as many steps each; what is there already is not made again. Then it scores them on a life that none has seen.
"""

import itertools
import json
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import loopback
import pandas
from scipy.stats import spearmanr

import singlelife
from singlelife.errors import RunError
from singlelife.evaluation.correspondence import evaluate_correspondence
from singlelife.evaluation.settings import CorrespondenceConfig
from singlelife.lives.prepare import prepare_life
from singlelife.lives.registry import Life, get_life


def life(name: str, frames: int) -> Life:
    """A registered life, or only its first frames."""
    found = get_life(name)
    if not frames or found.simulation is None:
        return found
    return replace(found, simulation=replace(found.simulation, num_frames=min(frames, found.simulation.num_frames)))


def pooled(parts: list[Life]) -> Life:
    """The videos of several lives, one after another."""
    same: dict[str, Any] = {
        field: getattr(parts[0], field) for field in ("frame_rate", "frame_size", "license", "train")
    }
    names = [part.name for part in parts]
    return Life(
        "pooled_" + "_".join(names), joins=" ".join(names), parts=tuple(parts), pairs_within_video=True, **same
    )


def trained(folder: Path, **settings: Any) -> str:
    """The model of a run, which is made or goes on if it is not there."""
    if not (folder / "model.safetensors").exists():
        singlelife.train(output_dir=str(folder), resume=True, **settings)
    return str(folder)


def federated(folder: Path, homes: list[dict[str, Any]], settings: dict[str, Any]) -> Path:
    """The last round of a federation, which is run or goes on if it is not there.

    Raises:
        RunError: it did not come to its end.
    """
    last = folder / f"round-{settings['num-rounds']:03d}"
    if not last.exists():
        with loopback.superlink(folder / "flower", homes):
            log = loopback.run(folder / "flower", settings | {"folder": str(folder)})
        if not last.exists():
            raise RunError(f"The federation in {folder} stopped. The server's log ends: {log[-2000:]}")
    return last


def scores(model: str, own: list[str], test: str) -> dict[str, float]:
    """A model's true matches (at large shifts) and AEPE, and its mean agreement with models of single lives."""
    config = CorrespondenceConfig(data=test, baselines=False, progress=False)
    found = [singlelife.cas(model, other, pairs=test, progress=False) for other in own if other != model]
    reading = (found or [singlelife.cas(model, model, pairs=test, progress=False)])[0].readings[0]
    return {
        "true matches": reading.truth.large_shifts,
        "CAS to own": mean(each.centred.excess for each in found) if found else float("nan"),
        "AEPE": evaluate_correspondence([model], config).models[0].measures["aepe"].mean,
    }


def rows(name: str, study: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """A federation of one seed: each life alone (their mean), federated, pooled."""
    output, settings = Path(study["output"]).absolute(), study["settings"] | study["federations"][name]
    parts = [life(each, study["frames"]) for each in settings["lives"].split(",")]
    test = str(prepare_life(life(study["test"], study["frames"]), progress=False).path)
    prepared = [str(prepare_life(part, progress=False).path) for part in parts]
    rounds, steps = settings["num-rounds"], settings["local-steps"]
    common = {"model": settings["model"], "config": settings["recipe"], "max_steps": rounds * steps, "seed": seed}
    alone = [
        trained(output / f"alone_{p.name}_s{seed}", life=f, **common) for p, f in zip(parts, prepared, strict=True)
    ]
    together = prepare_life(pooled(parts), progress=False)
    all_lives = trained(output / f"{together.name}_s{seed}", life=str(together.path), **common)
    folder = output / f"{name}_s{seed}"
    homes = [{"life": each, "folder": str(folder / "homes")} for each in prepared]
    least = len(homes) if settings.get("privacy") == "central" else min(2, len(homes))
    own = settings | {"seed": seed, "clients": len(homes), "min-clients": least}
    last = federated(folder, homes, own)

    facts = [json.loads((folder / f"round-{n:03d}" / "round.json").read_text()) for n in range(1, rounds + 1)]
    local = [str(folder / "homes" / Path(each).name / last.name) for each in prepared]
    before = [scores(model, [], test)["true matches"] for model in local]
    between = [singlelife.cas(a, b, pairs=test, progress=False) for a, b in itertools.combinations(local, 2)]
    each_alone = pandas.DataFrame([scores(model, [], test) for model in alone]).mean().to_dict()
    federation = scores(str(last), alone, test)
    return [
        {"federation": name, "seed": seed, "model": "alone (mean)", **each_alone},
        {
            "federation": name, "seed": seed, "model": "federated", **federation, "rounds": rounds,
            "MB": sum(each["bytes_sent"] + each["bytes_received"] for each in facts) / 1e6,
            "epsilon": facts[-1].get("epsilon", float("nan")),
            "CAS between homes": mean(each.centred.excess for each in between),
            "gain of averaging": federation["true matches"] - mean(before),
        },
        {"federation": name, "seed": seed, "model": "pooled", **scores(all_lives, alone, test)},
    ]  # fmt: skip


def main(config: str) -> None:
    study = tomllib.loads(Path(config).read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = []
    for seed, name in itertools.product(study["seeds"], study["federations"]):
        found += rows(name, study, seed)
        table = pandas.DataFrame(found)  # written after each, so that a study can be looked into early
        table.to_csv(Path(study["output"]) / "table.csv", index=False)
    means = table.drop(columns="seed").groupby(["federation", "model"], sort=False).mean()
    print(means.round(3).to_string(na_rep=""))
    pairs = table.dropna(subset=["gain of averaging"])
    if len(pairs) >= 5:
        rho = spearmanr(pairs["CAS between homes"], pairs["gain of averaging"])
        print(f"CAS between homes and the gain of averaging: Spearman's ρ {rho.statistic:.2f}, p {rho.pvalue:.3f}")


if __name__ == "__main__":
    main(sys.argv[1])
