"""Pair sets on the Hub: the hash is the same there and back, and a failure says why."""

import json
import re
from pathlib import Path

import pytest
import yaml

from singlelife.alignment.pair_sets import PairSet, make_pair_set

from ..hub_server import Break

pytestmark = pytest.mark.integration

PUSH = """
from pathlib import Path
from singlelife.alignment.pair_sets.hub import pair_set_publication
from singlelife.hub.push import publish
result = publish(pair_set_publication(Path(folder), repo), **options)
"""
RESOLVE = """
from singlelife.alignment.pair_sets import resolve_pair_set
pairs = resolve_pair_set(words, views="plain", num_pairs=4, seed=0, image_size=64, cache_dir=cache)
result = [pairs.hash, len(pairs), pairs.true_match((8, 8)).tolist()]
"""
COMMAND = """
from singlelife.cli import main
result = main(words)
"""


@pytest.fixture(scope="module")
def pairs(sim_test) -> PairSet:
    return make_pair_set(sim_test, num_pairs=6)


@pytest.fixture
def stored(pairs, tmp_path) -> Path:
    pairs.save(tmp_path / "pairs")
    return tmp_path / "pairs"


def test_a_pushed_set_is_the_same_when_it_comes_back(hub, hub_client, pairs, stored, tmp_path):
    url = hub_client(PUSH, folder=stored, repo="lives/pairs", options={})
    assert url == f"{hub.url}/datasets/lives/pairs"
    repository = hub.repositories["dataset", "lives/pairs"]
    assert repository.private and len(repository.commits) == 2  # the empty repository's, and one for all
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
    hub_client(PUSH, folder=stored, repo="lives/pairs", options={"revision": "v1"})
    hub_client(RESOLVE, words="lives/pairs@v1", cache=tmp_path)
    hub.breaks.append(Break("GET", "lives/pairs", after=0, times=10**6))
    answer = hub_client.ask(RESOLVE, words="lives/pairs@v1", cache=tmp_path)
    assert answer.result[0] == pairs.hash and "Going on with lives/pairs as it was kept" in answer.said


def test_a_life_on_the_hub_is_still_a_life(hub, hub_client, sim_test, tmp_path):
    push = """
from singlelife.hub.push import publish
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.publishing import life_publication
publish(life_publication(PreparedLife.load(life), 'lives/walk'))
"""
    hub_client(push, life=sim_test.path)
    assert hub_client(RESOLVE, words="lives/walk", cache=tmp_path)[0] == make_pair_set(sim_test, num_pairs=4).hash
    answer = hub_client.ask(PUSH, folder=tmp_path / "none", repo="lives/walk", options={})
    assert "holds no pair set" in answer.error[1]


@pytest.mark.parametrize("private", [True, False])
def test_a_name_that_is_taken_is_left_alone(private, hub, hub_client, stored):
    repository = hub.create("lives/other", private=private)
    hub.put(repository, {"data.csv": b"1,2"})
    answer = hub_client.ask(PUSH, folder=stored, repo="lives/other", options={"private": private})
    assert answer.error[0] == "HubError" and "lives/other is taken" in answer.error[1]
    answer = hub_client.ask(PUSH, folder=stored, repo="lives/other", options={"private": not private})
    assert "is there already" in answer.error[1]
    assert len(repository.commits) == 2


def test_a_push_that_broke_goes_on(hub, hub_client, pairs, stored, tmp_path):
    hub.breaks.append(Break("POST", "/commit/", after=0, times=10))
    answer = hub_client.ask(PUSH, folder=stored, repo="lives/pairs", options={})
    assert answer.error[0] == "HubUnreachable" and "the same command" in answer.error[1]
    hub.breaks.clear()
    uploads = sum(method == "PUT" for method, *_ in hub.requests)
    hub_client(PUSH, folder=stored, repo="lives/pairs", options={})
    assert sum(method == "PUT" for method, *_ in hub.requests) == uploads
    assert hub_client(RESOLVE, words="lives/pairs", cache=tmp_path)[0] == pairs.hash


def test_a_set_that_somebody_changed_is_refused(hub, hub_client, stored, tmp_path):
    hub_client(PUSH, folder=stored, repo="lives/pairs", options={})
    repository = hub.repositories["dataset", "lives/pairs"]
    described = json.loads(hub.read(repository, "pair_set.json")) | {"hash": "0" * 64}
    hub.put(repository, {"pair_set.json": json.dumps(described).encode()})
    answer = hub_client.ask(RESOLVE, words="lives/pairs", cache=tmp_path)
    assert answer.error[0] == "PairSetError" and "pair_set.json says 000000000000" in answer.error[1]
    hub.put(repository, {"test/data-00000-of-00001.arrow": None})
    answer = hub_client.ask(RESOLVE, words="lives/pairs", cache=tmp_path)
    assert answer.error[0] == "PairSetError" and "data-00000-of-00001.arrow cannot be read" in answer.error[1]


def test_the_command(hub, hub_client, stored):
    words = ["push", str(stored), "ann/pairs", "--public", "--license", "CC BY 4.0"]
    answer = hub_client.ask(COMMAND, words=words)
    assert answer.result == 0 and "(public)" in answer.said and "--pairs ann/pairs" in answer.said
    repository = hub.repositories["dataset", "ann/pairs"]
    assert not repository.private and "license: cc-by-4.0" in hub.read(repository, "README.md").decode()
