"""Training on a life of the Hub: from its name, pinned to a commit, resumable after it has changed."""

from pathlib import Path

import yaml

from singlelife.lives.prepare import prepare_life
from singlelife.lives.registry import get_life
from singlelife.pretraining.arguments import parse_arguments
from singlelife.pretraining.pretrain import pretrain
from singlelife.pretraining.run_folder import read_metrics

PUSH = """
from singlelife.lives.hub.push import push_life
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.resolve import resolve_life
push_life(PreparedLife.load(life), "ann/my.pan", max_shard_size=shard_size)
result = str(resolve_life("ann/my.pan", cache_dir=cache).path)
"""


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]


def test_a_run_on_the_hubs_life_is_that_on_ones_own(hub, hub_client, command, clip, cache, tmp_path):
    assert pretrain(parse_arguments(command(tmp_path / "local"))) == 0
    life = prepare_life(get_life("my_pan", [clip]), cache_dir=cache, progress=False)
    began_with = Path(hub_client(PUSH, life=life.path, cache=tmp_path, shard_size="1GB"))
    words = command(tmp_path / "run", life="ann/my.pan", video=None, cache_dir=tmp_path)
    assert pretrain(parse_arguments(words)) == 0
    assert losses(tmp_path / "run") == losses(tmp_path / "local")

    def life_of_run() -> str:
        return yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["life"]

    assert life_of_run() == f"ann/my.pan@{began_with.name}"
    # What is on the Hub changes; a run that is resumed goes on with the frames that it began with.
    assert Path(hub_client(PUSH, life=life.path, cache=tmp_path, shard_size="100KB")) != began_with
    assert pretrain(parse_arguments([*words, f"--resume={tmp_path / 'run' / 'checkpoint-8'}"])) == 0
    assert life_of_run() == f"ann/my.pan@{began_with.name}"
    assert losses(tmp_path / "run") == losses(tmp_path / "local")


def test_the_run_folder_has_the_lifes_name():
    assert parse_arguments(["--life", "ann/my.pan@v2"]).output_dir == Path("runs/my-pan")
