"""What the Space computes is what the command line says, and it stops, waits and forgets as it should."""

import base64
import io
import json
import threading
from dataclasses import replace
from pathlib import Path

import make_models
import matrix
import numpy as np
import pictures
import pytest
import reading
import scoring
import torch
from limits import Cancelled, Limits, VisitorError
from PIL import Image
from safetensors.torch import load_file, save_file

from singlelife.alignment.score import unpack
from singlelife.cli import main
from singlelife.croco import CroCoConfig, CroCoForPreTraining, CroCoImageProcessor

SPACE = Path(__file__).parents[2] / "spaces" / "cas"
MODELS = SPACE / "models"


@pytest.fixture(scope="module")
def bench() -> scoring.Bench:
    return scoring.Bench(Limits())


@pytest.fixture(scope="module")
def lives(bench: scoring.Bench) -> scoring.Result:
    return bench.example("sim_1", "sim_2")[1]


def command_line(tmp_path: Path, a: str, b: str, pairs: Path, *options: str) -> dict:
    file = tmp_path / "cas.json"
    assert main(["cas", a, b, "--pairs", str(pairs), "--json", str(file), *options]) == 0
    return json.loads(file.read_text())


def same_scores(ours: dict, theirs: dict) -> None:
    for variant in ("raw", "position_free"):
        for name, value in theirs[variant].items():
            assert ours[variant][name] == pytest.approx(value, abs=1e-6), (variant, name)
    assert ours["pairs_hash"] == theirs["pairs_hash"]
    assert ours["raw_readings"][0]["position"]["cas"] == pytest.approx(
        theirs["raw_readings"][0]["position"]["cas"], abs=1e-6
    )


@pytest.mark.parametrize(("pairs", "k"), [("simulated", 5), ("motorway", 3)])
def test_built_in_pairs_give_the_command_lines_scores(bench, tmp_path, pairs: str, k: int):
    found = bench.example("sim_1", "sim_still", pairs, k)[1].to_dict()
    theirs = command_line(
        tmp_path, str(MODELS / "sim_1"), str(MODELS / "sim_still"), SPACE / "pairs" / pairs, "--k", str(k)
    )
    same_scores(found, theirs)
    assert found["models"] == ["sim_1", "sim_still"] or found["models"] == ("sim_1", "sim_still")
    json.dumps(found, allow_nan=False)


def test_a_visitors_pictures_give_the_command_lines_scores(bench, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    generator = np.random.default_rng(0)
    noise = [generator.integers(0, 255, (9, 12, 3), dtype=np.uint8) for _ in range(2)]
    shots = [np.array(Image.fromarray(each).resize((160, 120), Image.Resampling.BICUBIC)) for each in noise]
    for shot, view in zip(shots, ("target", "source"), strict=True):
        Image.fromarray(shot).save(folder / f"a_{view}.png")
    views = [(scoring.as_view(shots[0]), scoring.as_view(shots[1]))]
    found = bench.compare(scoring.Named("sim_1"), scoring.Named("sim_2"), views)
    theirs = command_line(tmp_path, str(MODELS / "sim_1"), str(MODELS / "sim_2"), folder)
    assert found.comparison.raw.cas == pytest.approx(theirs["raw"]["cas"], abs=1e-6)
    # One pair has no habits of its own: they are those on the built-in pairs, and so is the position-free score.
    assert found.reference.num_pairs == 64
    assert found.per_pair_position_free is None
    reference = found.to_dict()["position_free_reference"]
    assert reference["position_free"]["cas"] == pytest.approx(
        bench.example("sim_1", "sim_2")[1].comparison.position_free.cas, abs=1e-6
    )
    assert "One pair says little" in reading.reading(found)
    logits, sets = found.look(0, True)
    assert np.allclose(logits, found.look(0, False)[0] - np.stack(found.habits))
    assert (unpack(sets, 64).sum(axis=-1) == 5).all()


def test_the_matrix_is_what_the_pairs_of_models_score(bench):
    for variant in ("raw", "position_free"):
        cells = matrix.cells(variant)
        for i, j in ((0, 1), (2, 4)):
            result = bench.example(cells["models"][i], cells["models"][j])[1]
            assert getattr(result.comparison, variant).cas == pytest.approx(cells["scores"][i][j], abs=0.002)
            assert cells["scores"][i][j] == cells["scores"][j][i]


def test_a_result_adds_up(lives: scoring.Result):
    assert lives.per_pair.mean() == pytest.approx(lives.comparison.raw.cas)
    assert lives.per_pair_position_free.mean() == pytest.approx(lives.comparison.position_free.cas)
    assert 0 < lives.same_place < 1
    # Of shared matches those at the same place: counted the long way.
    sets = [unpack(run.extraction.raw, 64) for run in lives.runs]
    near = unpack(scoring.position_sets((8, 8), 5), 64)
    assert lives.same_place == pytest.approx((sets[0] & sets[1] & near).sum() / (sets[0] & sets[1]).sum())
    assert len(lives.table()) == 64


def test_pictures_show_the_sets_that_are_scored(lives: scoring.Result):
    pair = 7
    drawn = pictures.look(lives, pair, "a=b")
    for variant, position_free in (("raw", False), ("free", True)):
        _, sets = lives.look(pair, position_free)
        for model in range(2):
            top = np.frombuffer(base64.b64decode(drawn["maps"][variant]["top"][model]), "<u2").reshape(64, 5)
            chosen = unpack(sets[model], 64)
            assert all(set(row) == set(np.flatnonzero(chosen[patch])) for patch, row in enumerate(top))
            heat = np.frombuffer(base64.b64decode(drawn["maps"][variant]["heat"][model]), np.uint8).reshape(64, 64)
            assert (np.take_along_axis(heat, top.astype(int), 1).max(axis=1) == 255).all()
    assert len(json.dumps(drawn)) < 120_000
    with Image.open(io.BytesIO(pictures.card(lives))) as card:
        assert card.size == (1200, 630)


def test_names_are_text_on_the_page(lives: scoring.Result):
    hostile = scoring.Named("<img src=x onerror=alert(1)>", "'\"")
    told = reading.score_html(replace(lives, models=(hostile, hostile)), b"")
    assert "<img" not in told
    assert "&lt;img" in told
    assert "<b>" not in reading.stage_html("<b>", None).replace("<b>x", "")
    assert "<script" not in reading.note_html("<script>")


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ("sim_1", "sim_1", "strongly about where things are"),
        ("sim_1", "sim_2", "clearly about where things are"),
        ("sim_1", "sim_still", "less than by chance"),
        ("untrained:tiny@1", "untrained:tiny@2", "looking at what stands out"),
    ],
)
def test_the_verdict(bench, a: str, b: str, says: str):
    assert says in reading.verdict(bench.example(a, b)[1])


def test_cancel_stops_between_steps_and_keeps_nothing():
    bench = scoring.Bench(Limits())
    said = []
    with pytest.raises(Cancelled):
        bench.compare(
            scoring.Named("sim_1"),
            scoring.Named("sim_2"),
            scoring.built_in_pairs("simulated"),
            report=lambda what, share: said.append(what),
            cancelled=lambda: "Running sim_1" in said,
        )
    assert said == ["Running sim_1"]
    assert len(bench._runs) == 1  # of sim_1, which was done


def test_many_at_once_run_a_model_once(monkeypatch):
    bench = scoring.Bench(Limits())
    runs, extract = [], scoring.extract
    monkeypatch.setattr(scoring, "extract", lambda *a, **settings: runs.append(1) or extract(*a, **settings))
    found: list[scoring.Result] = []
    threads = [threading.Thread(target=lambda: found.append(bench.example("sim_1", "sim_2")[1])) for _ in range(8)]
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
    first = bench.keep(lives)
    for _ in range(scoring._KEPT_RESULTS):
        bench.keep(lives)
    assert bench.find(first) is None  # pushed out: what is kept is bounded


@pytest.mark.parametrize(
    ("a", "pairs", "k", "says"),
    [
        ("sim_1", "simulated", 65, "k should be"),
        ("sim_1", "../../etc", 5, "There are the pairs"),
        ("sim_9", "simulated", 5, "not one of the models"),
    ],
)
def test_what_cannot_be_compared_is_said(bench, a: str, pairs: str, k: int, says: str):
    with pytest.raises(VisitorError, match=says):
        bench.example(a, "sim_2", pairs, k)


def test_a_request_has_an_end():
    bench = scoring.Bench(Limits(request_seconds=1e-9))
    with pytest.raises(VisitorError, match="longer than"):
        bench.compare(scoring.Named("sim_1"), scoring.Named("sim_2"), scoring.built_in_pairs("simulated"))


@pytest.fixture
def run_folder(tmp_path) -> Path:
    folder = tmp_path / "small"
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    decoder = {"decoder_hidden_size": 32, "decoder_intermediate_size": 64, "decoder_num_hidden_layers": 1}
    config = CroCoConfig(image_size=32, patch_size=8, decoder_num_attention_heads=2, **small, **decoder)
    CroCoForPreTraining(config).save_pretrained(folder)
    CroCoImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    (folder / "config.yaml").write_text("life: sim_1\nseed: 1\nmax_steps: 10\ntrain_batch_size: 2\n")
    return folder


def test_shipped_models_score_as_their_runs(run_folder, tmp_path):
    output = tmp_path / "models"
    assert make_models.main([str(run_folder), "--output", str(output)]) == 0
    assert make_models.main([str(run_folder), "--output", str(output)]) == 0  # takes the place of what was there
    made = output / "small"
    assert {path.name for path in made.iterdir()} == {
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json",
    }  # fmt: skip
    assert all(weight.dtype == torch.float16 for weight in load_file(made / "model.safetensors").values())
    assert "--seed 1" in (made / "README.md").read_text()
    theirs = command_line(tmp_path, str(run_folder), str(made), SPACE / "pairs" / "motorway")
    assert theirs["raw"]["cas"] > 0.98
    scores = [
        command_line(tmp_path, str(model), "untrained:tiny@1", SPACE / "pairs" / "motorway")["raw"]["cas"]
        for model in (run_folder, made)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=0.01)


def test_weights_that_do_not_fit_are_not_shipped(run_folder, tmp_path, capsys):
    file = run_folder / "model.safetensors"
    weights = load_file(file)
    save_file(weights | {"croco.encoder.norm.weight": torch.full((32,), 1e6)}, file, metadata={"format": "pt"})
    assert make_models.main([str(run_folder), "--output", str(tmp_path / "models")]) == 2
    assert "half precision" in capsys.readouterr().err
    assert not (tmp_path / "models" / "small").exists()


def test_every_shipped_file_is_small():
    assert all(path.stat().st_size < 4_000_000 for path in SPACE.rglob("*") if path.is_file())
    assert set(matrix.models()) <= {*(path.name for path in MODELS.iterdir()), *scoring.UNTRAINED}
