"""Does a model of lives that stay at home know more than a model of one life? One table for a study:

    python table.py study.toml

For each federation it trains each life alone, all lives together without their videos (federated), and, if asked for,
on all videos (pooled, which breaks privacy). All three take as many steps in all. Each result is a line of
results.jsonl in the study's folder; what is there already is not made again.
"""

import itertools
import json
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import pandas
from federated_lives import one_process

import singlelife
from singlelife.evaluation.correspondence import evaluate_correspondence
from singlelife.evaluation.settings import CorrespondenceConfig
from singlelife.lives.prepare import prepare_life
from singlelife.lives.registry import Life, get_life


def trained(folder: Path, life: str, settings: dict[str, Any], steps: int) -> str:
    """The model of a run, which is made or goes on if it is not there."""
    if not (folder / "model.safetensors").exists():
        run = {"life": life, "output_dir": str(folder), "model": settings["model"], "config": settings["recipe"]}
        singlelife.train(**run, max_steps=steps, seed=settings["seed"], save_steps=100, resume=True)
    return str(folder)


def scores(model: str, own: list[str], test: str) -> dict[str, float]:
    """A model's true matches at large shifts, its AEPE, and its mean agreement with models of single lives."""
    config = CorrespondenceConfig(data=test, baselines=False, progress=False)
    found = [singlelife.cas(model, other, pairs=test, progress=False) for other in own]
    return {
        "true matches": found[0].readings[0].truth.large_shifts,
        "CAS": mean(each.centred.excess for each in found),
        "AEPE": evaluate_correspondence([model], config).models[0].measures["aepe"].mean,
    }


def federated(settings: dict[str, Any], lives: list[str], alone: list[str], test: str) -> dict[str, Any]:
    """Run a federation, or what is left of it. Did the last average gain, and how well did the homes agree before?"""
    folder, number = Path(settings["folder"]), settings["num-rounds"]
    one_process.run(settings, [{"life": life, "folder": str(folder / "homes")} for life in lives])
    facts = [json.loads((folder / f"round-{n:03d}" / "round.json").read_text()) for n in range(1, number + 1)]
    before = [str(folder / "homes" / life / f"round-{number:03d}") for life in lives]
    between = [singlelife.cas(*two, pairs=test, progress=False) for two in itertools.combinations(before, 2)]
    known = mean(reading.truth.large_shifts for each in between for reading in each.readings)
    found = scores(str(folder / f"round-{number:03d}"), alone, test)
    sent = sum(each["bytes_sent"] + each["bytes_received"] for each in facts) / 1e6
    agreement = mean(each.centred.excess for each in between)
    more = {"rounds": number, "MB": sent, "between homes": agreement, "gain": found["true matches"] - known}
    return found | more | {"epsilon": facts[-1].get("epsilon", float("nan"))}


def study(config: dict[str, Any], seed: int, name: str) -> Iterator[tuple[str, str, int, Callable[[], dict]]]:
    """The models of a federation of one seed: the name of each, its lives, its steps, and how to get its scores."""
    defaults = tomllib.loads(Path(__file__).with_name("pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    settings = defaults | config["settings"] | config["federations"][name]
    with_pooled, lives = settings.pop("pooled", False), settings["lives"].split(",")
    output, test = Path(config["output"]).absolute(), config["test"]
    steps = settings["num-rounds"] * settings["local-steps"]
    settings |= {"seed": seed, "folder": str(output / f"{name}_{seed}")}
    settings |= {"clients": len(lives), "min-clients": len(lives)}

    alone = [trained(output / f"{life}_{steps}_{seed}", life, settings, steps) for life in lives]
    for life, model in zip(lives, alone, strict=True):
        yield f"{life} alone", "", steps, partial(scores, model, [each for each in alone if each != model], test)
    of, number = settings["lives"], steps * len(lives)
    yield name, of, number, lambda: federated(settings, lives, alone, test)
    if with_pooled:
        parts = tuple(get_life(life) for life in lives)
        same: Any = {each: getattr(parts[0], each) for each in ("frame_rate", "frame_size", "license", "train")}
        joined = Life("pooled_" + "_".join(lives), joins=" ".join(lives), parts=parts, pairs_within_video=True, **same)
        life, folder = str(prepare_life(joined, progress=False).path), output / f"{name}_pooled_{steps}_{seed}"
        yield "pooled", of, number, lambda: scores(trained(folder, life, settings, number), alone, test)


def over_seeds(values: pandas.Series) -> str:
    """The mean, and the range where seeds differ."""
    low, high = values.min(), values.max()
    return "" if pandas.isna(low) else f"{values.mean():.3g}" + (f" ({low:.3g} to {high:.3g})" if low < high else "")


def main(path: str) -> None:
    config = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    results = Path(config["output"]) / "results.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    for seed, name in itertools.product(config["seeds"], config["federations"]):
        for model, lives, steps, make in study(config, seed, name):
            key = {"model": model, "lives": lives, "steps": steps, "seed": seed}
            if not any(row | key == row for row in rows):
                rows.append(key | make())
                with results.open("a") as lines:
                    lines.write(json.dumps(rows[-1]) + "\n")

    frame = pandas.DataFrame(rows)
    print(frame.drop(columns="seed").groupby(["model", "lives", "steps"], sort=False).agg(over_seeds).to_string())
    federations = {name: config["settings"] | own for name, own in config["federations"].items()}
    noisy = [name for name, own in federations.items() if own.get("privacy", "none") != "none"]
    points = frame[~frame["model"].isin(noisy)].dropna(subset=["gain"])
    rank, n = points["between homes"].corr(points["gain"], method="spearman"), len(points)
    print(f"\nCAS before the last average, gain in true matches: Spearman's rank correlation {rank:.2f}, n = {n}")
    print("(a point for each seed of each federation without privacy; points of one federation are not independent)")


if __name__ == "__main__":
    main(sys.argv[1])
