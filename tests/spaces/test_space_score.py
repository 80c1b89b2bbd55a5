"""The Space computes the scores of the command line, and it stops, waits and forgets as it should."""

import base64
import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import score
import show
from limits import Cancelled, Limits, Request
from PIL import Image

from singlelife.alignment.score import unpack

from .conftest import SPACE, command_line, same_scores

pytestmark = pytest.mark.integration
LIVES = ("sim_1", "sim_2")


@pytest.fixture(scope="module")
def bench() -> score.Bench:
    return score.Bench(Limits())


@pytest.fixture(scope="module")
def lives(bench: score.Bench) -> score.Result:
    return bench.example(*LIVES)[1]


@pytest.mark.parametrize(("pairs", "k"), [("simulated", 5), ("real_office", 3)])
def test_built_in_pairs_give_the_command_lines_scores(bench, tmp_path, pairs: str, k: int):
    result = bench.example("sim_1", "sim_still", pairs, k)[1]
    found, theirs = (
        show.to_dict(result),
        command_line(
            tmp_path, "sim_still", SPACE / "pairs" / pairs if pairs == "simulated" else Path(pairs), "--k", str(k)
        ),
    )
    for variant in ("raw", "centred"):
        same_scores(found[variant], theirs[variant])
    assert found["pairs_hash"] == theirs["pairs_hash"]
    assert list(found["models"]) == ["sim_1", "sim_still"]
    assert np.mean(found["per_pair"]) == pytest.approx(found["raw"]["cas"])
    json.dumps(found, allow_nan=False)


def test_a_visitors_pictures_give_the_command_lines_scores(bench, lives, pictures, tmp_path):
    found = bench.compare(*LIVES, [tuple(np.asarray(Image.open(file)) for file in pictures)])
    same_scores(show.to_dict(found)["raw"], command_line(tmp_path, "sim_2", pictures[0].parent)["raw"])
    # One pair has no mean map of its own: the built-in pairs give it, and the centred score.
    reference = show.to_dict(found)["centred_reference"]
    assert reference["num_pairs"] == 64
    assert reference["centred"]["cas"] == pytest.approx(lives.comparison.centred.cas, abs=1e-6)
    assert "One pair" in show.reading(found)
    logits, sets = found.look(0, True)
    mean_maps, spreads = (np.stack(each) for each in zip(*lives.comparison.centring, strict=True))
    free = found.look(0, False)[0] - mean_maps
    assert np.allclose(logits, (free - free.mean(axis=1, keepdims=True)) / spreads)
    assert (unpack(sets, 64).sum(axis=-1) == 5).all()


def test_the_page_draws_the_sets_that_are_scored(lives: score.Result):
    pair = 7
    drawn = show.look(lives, pair)
    for variant in ("raw", "centred"):
        _, sets = lives.look(pair, variant == "centred")
        for model in range(2):
            top = np.frombuffer(base64.b64decode(drawn["maps"][variant]["top"][model]), "<u2").reshape(64, 5)
            chosen = unpack(sets[model], 64)
            assert all(set(row) == set(np.flatnonzero(chosen[patch])) for patch, row in enumerate(top))
            heat = np.frombuffer(base64.b64decode(drawn["maps"][variant]["heat"][model]), np.uint8).reshape(64, 64)
            assert (np.take_along_axis(heat, top.astype(int), 1).max(axis=1) == 255).all()
    assert len(json.dumps(drawn)) < 120_000


def test_the_matrix_has_the_scores_of_all_models(bench, lives):
    cells = show.matrix(bench)
    assert cells["models"] == [*LIVES, "sim_still", "track", *score.UNTRAINED]
    assert cells["scores"][0][1] == cells["scores"][1][0] == lives.comparison.centred.cas
    assert all(cells["scores"][i][i] is None for i in range(5))


def test_names_are_text_on_the_page(lives: score.Result):
    hostile = "<img src=x onerror=alert(1)>"
    shown = show.score_html(replace(lives, models=(hostile, "'\"")))
    assert "<img" not in shown
    assert "&lt;img" in shown
    assert "<b>" not in show.stage_html("<b>", None)
    assert "<script" not in show.note_html("<script>")


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ("sim_1", "sim_1", "strongly about where"),
        ("sim_1", "sim_2", "clearly about where"),
        ("sim_1", "sim_still", "less than chance"),
        ("untrained:tiny@1", "untrained:tiny@2", "less than chance"),
    ],
)
def test_the_verdict(bench, a: str, b: str, says: str):
    assert says in show.verdict(bench.example(a, b)[1])


def test_cancel_stops_between_steps_and_keeps_nothing():
    bench, steps = score.Bench(Limits()), []
    request = Request(bench.limits, lambda what, share: steps.append(what), lambda: "Running sim_1" in steps)
    with pytest.raises(Cancelled):
        bench.compare(*LIVES, score.built_in_pairs("simulated"), request=request)
    assert steps == ["Running sim_1"]
    assert len(bench._runs) == 1  # of sim_1, which was done


def test_many_at_once_run_a_model_once(monkeypatch):
    bench = score.Bench(Limits())
    runs, extract = [], score.extract
    monkeypatch.setattr(score, "extract", lambda *a, **settings: runs.append(1) or extract(*a, **settings))
    found: list[score.Result] = []
    threads = [threading.Thread(target=lambda: found.append(bench.example(*LIVES)[1])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({id(result) for result in found}) == 1
    assert len(runs) == 2


def test_results_are_found_again_until_they_are_forgotten(bench, lives):
    token = bench.keep(lives)
    assert bench.find(token) is lives
    bench.forget(token)
    assert bench.find(token) is None
    assert bench.find(None) is None
    example = bench.example(*LIVES)[0]
    bench.forget(example)
    assert bench.find(example) is lives  # which others see too
    first = bench.keep(lives)
    for _ in range(score._KEPT_RESULTS):
        bench.keep(lives)
    assert bench.find(first) is None  # pushed out: what is kept is bounded
