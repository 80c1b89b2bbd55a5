"""Pair sets on the Hub: the hash is the same there and back, and a failure says why."""

import json
import re
from pathlib import Path

import pytest
import yaml

from singlelife.alignment.pair_sets import PairSet, make_pair_set

from ..hub_server import Fault
from .conftest import pushed

pytestmark = pytest.mark.integration

RESOLVE = """
from singlelife.alignment.pair_sets import resolve_pair_set
pairs = resolve_pair_set(words, views="plain", num_pairs=4, seed=0, image_size=64, cache_dir=cache)
result = [pairs.hash, len(pairs), pairs.true_match((8, 8)).tolist()]
"""


@pytest.fixture(scope="module")
def pairs(sim_test) -> PairSet:
    return make_pair_set(sim_test, num_pairs=6)


@pytest.fixture
def stored(pairs, tmp_path) -> Path:
    pairs.save(tmp_path / "pairs")
    return tmp_path / "pairs"


def test_a_pushed_set_is_the_same_when_it_comes_back(hub, hub_client, pairs, stored, tmp_path):
    repository = pushed(hub, hub_client, stored, "lives/pairs")
    first = repository.branches["main"]
    for words in ("lives/pairs", f"lives/pairs@{first}"):
        hash_, count, matches = hub_client(RESOLVE, words=words, cache=tmp_path)
        assert (hash_, count) == (pairs.hash, 6) and matches == pairs.true_match((8, 8)).tolist()

    card = hub.read(repository, "README.md").decode()
    assert pairs.hash in card and "--pairs lives/pairs" in card and "Freedoom" in card
    header = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.S)[1])
    assert header["license"] == "other" and header["configs"][0]["data_files"][0]["path"] == "test/*.arrow"

    load = "from datasets import load_dataset\nrows = load_dataset('lives/pairs', split='test', cache_dir=cache)\n"
    rows = hub_client(load + "result = [len(rows), rows[2]['target'].size, rows[2]['gap']]", cache=tmp_path / "cache")
    assert rows == [6, [64, 64], pairs.gap[2]]


def test_without_a_network_a_set_that_was_kept_is_taken(hub, hub_client, pairs, stored, tmp_path):
    pushed(hub, hub_client, stored, "lives/pairs")
    hub_client(RESOLVE, words="lives/pairs", cache=tmp_path)
    hub.faults.append(Fault("GET", "lives/pairs", after=0, times=10**6))
    answer = hub_client.ask(RESOLVE, words="lives/pairs", cache=tmp_path)
    assert answer.result[0] == pairs.hash and "earlier download of lives/pairs" in answer.said


def test_a_life_on_the_hub_is_still_a_life(hub, hub_client, sim_test, tmp_path):
    pushed(hub, hub_client, sim_test.path, "lives/walk")
    assert hub_client(RESOLVE, words="lives/walk", cache=tmp_path)[0] == make_pair_set(sim_test, num_pairs=4).hash


def test_a_set_that_somebody_changed_is_refused(hub, hub_client, stored, tmp_path):
    repository = pushed(hub, hub_client, stored, "lives/pairs")
    described = json.loads(hub.read(repository, "pair_set.json")) | {"hash": "0" * 64}
    hub.put(repository, {"pair_set.json": json.dumps(described).encode()})
    answer = hub_client.ask(RESOLVE, words="lives/pairs", cache=tmp_path)
    assert answer.error[0] == "PairSetError" and "pair_set.json says 000000000000" in answer.error[1]
    hub.put(repository, {"test/data-00000-of-00001.arrow": None})
    answer = hub_client.ask(RESOLVE, words="lives/pairs", cache=tmp_path)
    assert answer.error[0] == "PairSetError" and "data-00000-of-00001.arrow cannot be read" in answer.error[1]
