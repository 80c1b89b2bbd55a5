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
from collections.abc import Callable
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

HERE = Path(__file__).parent


def pooled(parts: list[Life]) -> Life:
    """The videos of several lives, one after another."""
    same: dict[str, Any] = {each: getattr(parts[0], each) for each in ("frame_rate", "frame_size", "license", "train")}
    names = [part.name for part in parts]
    return Life(
        "pooled_" + "_".join(names), joins=" ".join(names), parts=tuple(parts), pairs_within_video=True, **same
    )


def trained(folder: Path, life: Life, settings: dict[str, Any], steps: int) -> str:
    """The model of a run, which is made or goes on if it is not there."""
    if not (folder / "model.safetensors").exists():
        singlelife.train(
            life=str(prepare_life(life, progress=False).path), output_dir=str(folder), model=settings["model"],
            config=settings["recipe"], max_steps=steps, seed=settings["seed"], save_steps=100, resume=True,
        )  # fmt: skip
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


def federated(settings: dict[str, Any], lives: list[Life], alone: list[str], test: str) -> dict[str, Any]:
    """Run a federation, or what is left of it. Did the last average gain, and how well did the homes agree before?"""
    folder, number = Path(settings["folder"]), settings["num-rounds"]
    homes = [str(prepare_life(life, progress=False).path) for life in lives]
    one_process.run(settings, [{"life": each, "folder": str(folder / "homes")} for each in homes])
    facts = [json.loads((folder / f"round-{n:03d}" / "round.json").read_text()) for n in range(1, number + 1)]
    before = [str(folder / "homes" / Path(each).name / f"round-{number:03d}") for each in homes]
    between = [singlelife.cas(*two, pairs=test, progress=False) for two in itertools.combinations(before, 2)]
    known = mean(reading.truth.large_shifts for each in between for reading in each.readings)
    found = scores(str(folder / f"round-{number:03d}"), alone, test)
    sent = sum(each["bytes_sent"] + each["bytes_received"] for each in facts) / 1e6
    agreement = mean(each.centred.excess for each in between)
    more = {"rounds": number, "MB": sent, "between homes": agreement, "gain": found["true matches"] - known}
    return found | more | {"epsilon": facts[-1].get("epsilon", float("nan"))}


def study(config: dict[str, Any], seed: int, name: str, add: Callable[..., None]) -> None:
    """All models of a federation of one seed."""
    defaults = tomllib.loads((HERE / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    own, output = dict(config["federations"][name]), Path(config["output"]).absolute()
    with_pooled = own.pop("pooled", False)
    settings = defaults | config["settings"] | own | {"seed": seed, "folder": str(output / f"{name}_{seed}")}
    lives = [get_life(each) for each in settings["lives"].split(",")]
    settings |= {"clients": len(lives), "min-clients": len(lives)}
    steps = settings["num-rounds"] * settings["local-steps"]
    test = str(prepare_life(get_life(config["test"]), progress=False).path)

    alone = [trained(output / f"{life.name}_{steps}_{seed}", life, settings, steps) for life in lives]
    for model, life in zip(alone, lives, strict=True):
        others = [each for each in alone if each != model]
        add(f"{life.name} alone", "", steps, lambda m=model, o=others: scores(m, o, test))
    add(name, settings["lives"], steps * len(lives), lambda: federated(settings, lives, alone, test))
    if with_pooled:
        folder, joined, steps = output / f"{name}_pooled_{steps}_{seed}", pooled(lives), steps * len(lives)
        add("pooled", settings["lives"], steps, lambda: scores(trained(folder, joined, settings, steps), alone, test))


def main(path: str) -> None:
    config = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    results = Path(config["output"]) / "results.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []

    for seed, name in itertools.product(config["seeds"], config["federations"]):

        def add(model: str, lives: str, steps: int, make: Callable[[], dict[str, Any]], seed: int = seed) -> None:
            key = {"model": model, "lives": lives, "steps": steps, "seed": seed}
            if not any(row | key == row for row in rows):
                rows.append(key | make())
                with results.open("a") as lines:
                    lines.write(json.dumps(rows[-1]) + "\n")

        study(config, seed, name, add)
    table = pandas.DataFrame(rows).drop(columns="seed").groupby(["model", "lives", "steps"], sort=False).mean()
    print(table.round(3).to_string(na_rep=""))


if __name__ == "__main__":
    main(sys.argv[1])
