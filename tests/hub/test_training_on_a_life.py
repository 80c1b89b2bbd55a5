"""Training on a life of the Hub: from its name, pinned to a commit, resumable after it has changed."""

from pathlib import Path

import pytest
import yaml

from singlelife.pretraining.run_folder import read_metrics

pytestmark = pytest.mark.integration

PUSH = """
from singlelife.hub.push import publish
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.publishing import life_publication
from singlelife.lives.resolve import resolve_life
publish(life_publication(PreparedLife.load(life), "ann/my.pan", shard_bytes=shard_size))
result = str(resolve_life("ann/my.pan", cache_dir=cache).path)
"""


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]


def test_a_run_on_the_hubs_life_is_that_on_ones_own(hub, hub_client, train, run_words, clip, life_cache, tmp_path):
    from singlelife.lives.prepare import prepare_life
    from singlelife.lives.registry import get_life

    assert train(run_words(tmp_path / "local")).result == 0
    life = prepare_life(get_life("my_pan", [clip]), cache_dir=life_cache, progress=False)
    began_with = Path(hub_client(PUSH, life=life.path, cache=tmp_path, shard_size=10**9))
    words = run_words(tmp_path / "run", life="ann/my.pan", video=None, cache_dir=tmp_path)
    assert train(words).result == 0
    assert losses(tmp_path / "run") == losses(tmp_path / "local")

    def life_of_run() -> str:
        return yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["life"]

    assert life_of_run() == f"ann/my.pan@{began_with.name}"
    # What is on the Hub changes; a run that is resumed goes on with the frames that it began with.
    assert Path(hub_client(PUSH, life=life.path, cache=tmp_path, shard_size=100_000)) != began_with
    assert train([*words, f"--resume-from={tmp_path / 'run' / 'checkpoint-8'}"]).result == 0
    assert life_of_run() == f"ann/my.pan@{began_with.name}"
    assert losses(tmp_path / "run") == losses(tmp_path / "local")
