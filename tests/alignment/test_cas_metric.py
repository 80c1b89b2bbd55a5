"""The module for `evaluate` gives the package's own numbers, and needs nothing of the package."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from .providers import score_of, top_k

pytestmark = pytest.mark.integration
SPACE = Path(__file__).parents[2] / "spaces" / "cas_metric"


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Loads the metric by the path of its folder; what evaluate writes goes into a temporary one."""
    import evaluate

    evaluate.config.HF_METRICS_CACHE = tmp_path_factory.mktemp("metrics")
    evaluate.config.HF_MODULES_CACHE = str(tmp_path_factory.mktemp("modules"))
    evaluate.loading.init_dynamic_modules(hf_modules_cache=evaluate.config.HF_MODULES_CACHE)
    return lambda config=None: evaluate.load(str(SPACE), config)


def maps(seed: int, num_pairs: int = 12, rows: int = 6, columns: int = 9, levels: int = 5) -> np.ndarray:
    """Logits (P, N, M) with many ties."""
    return np.random.default_rng(seed).integers(0, levels, (num_pairs, rows, columns)).astype(np.float32)


@pytest.mark.parametrize(("k", "num_pairs"), [(1, 12), (4, 40), (9, 12)])
def test_logits_score_as_in_the_package(load, k, num_pairs):
    a, b = maps(0, num_pairs), maps(1, num_pairs) + 0.5 * maps(0, num_pairs)
    a[2, 1], b[3] = 1, 0  # rows, and a pair, without a top k
    found, expected = load().compute(predictions=a, references=b, k=k), score_of(a, b, k)
    assert found["cas"] == pytest.approx(expected.raw.cas, abs=1e-6)
    assert found["interval"] == pytest.approx([expected.raw.low, expected.raw.high], abs=1e-6)
    assert found["chance_corrected"] == (None if k == 9 else pytest.approx(expected.raw.chance_corrected, abs=1e-6))
    theirs = expected.centred
    for name, value in {"centred": theirs.cas, "null": theirs.null, "excess": theirs.excess,
                        "excess_interval": [theirs.excess_low, theirs.excess_high], "p_value": theirs.p_value,
                        "chance": theirs.chance}.items():  # fmt: skip
        assert found[name] == pytest.approx(value, abs=1e-6), name
    assert bool([note for note in found["notes"] if "few" in note]) == (num_pairs < 16)


@pytest.mark.parametrize("same", ["pair", "map"])
def test_what_has_no_centred_score_has_none(load, same):
    a, b = (maps(0)[:1], maps(1)[:1]) if same == "pair" else (np.repeat(maps(0)[:1], 12, axis=0), maps(1))
    found = load().compute(predictions=a, references=b)
    assert found["centred"] is found["excess"] is found["p_value"] is None and found["notes"]
    assert 0 <= found["cas"] <= 1


def test_a_top_k_scores_as_its_logits_in_any_order(load):
    a, b = (
        np.random.default_rng(seed).permuted(maps(seed, levels=1) + np.arange(9, dtype=np.float32), axis=-1)
        for seed in (2, 3)
    )
    tops = [top_k(torch.from_numpy(each), 3).numpy() for each in (a, b)]
    found = load("top_k").compute(predictions=tops[0], references=tops[1][..., ::-1], num_source_patches=9)
    assert found == {
        name: value for name, value in load().compute(predictions=a, references=b, k=3).items() if name in found
    }


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        ("logits", {"k": 10}, "from 1 to the number of source patches, 9; not 10"),
        ("logits", {"references": maps(0, columns=8)}, "differ in shape"),
        ("logits", {"references": np.full((12, 6, 9), np.nan)}, "references hold NaN"),
        ("logits", {"references": [[[1.0], [1.0, 2.0]]] * 12}, "rows of different lengths"),
        ("logits", {"num_source_patches": 9}, "is for the configuration top_k"),
        ("top_k", {"k": 3}, "The rows hold 9 patches each, but k is 3"),
        ("top_k", {}, "holds a patch twice"),
        ("top_k", {"num_source_patches": 4}, "hold patch 8, but there are 4"),
        ("top_k", {"references": maps(0).astype(int) - 1}, "hold patch -1"),
    ],
)
def test_bad_input_is_told(load, config, change, message):
    first = maps(0) if config == "logits" else np.tile(np.arange(9), (12, 6, 1))
    second = maps(1) if config == "logits" else np.zeros((12, 6, 9), dtype=int)
    settings = {"num_source_patches": 9} if config == "top_k" else {}
    with pytest.raises(ValueError, match=message):
        load(config).compute(**({"predictions": first, "references": second} | settings | change))


def test_it_needs_neither_torch_nor_the_package(tmp_path):
    script = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "singlelife"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import evaluate
metric = evaluate.load({str(SPACE / "cas_metric.py")!r})
print(metric.compute(predictions=[[[3., 2., 1., 0.]]], references=[[[3., 0., 2., 1.]]], k=2)["cas"])
"""
    environment = os.environ | {"HF_HOME": str(tmp_path), "USE_TORCH": "0"}  # datasets looks for torch, too
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "0.5", done.stderr


@pytest.fixture(scope="module")
def app(load):
    spec = importlib.util.spec_from_file_location("cas_metric_app", SPACE / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_scores_files_as_the_metric_does(app, load, tmp_path):
    a, b = app.example()
    paths = [str(tmp_path / f"{name}.npy") for name in "ab"]
    for path, each in zip(paths, (a, b), strict=True):
        np.save(path, each)
    rows = app.score(*paths, "logits", 5, 0)
    assert rows == app.score(None, None, "logits", 5, 0)
    expected = load().compute(predictions=a, references=b, k=5)
    assert rows[0][:2] == ["centred", f"{expected['centred']:.3f}"] and rows[2][:2] == [
        "raw",
        f"{expected['cas']:.3f}",
    ]
    for path, each in zip(paths, (a, b), strict=True):
        np.save(path, np.argsort(-each, axis=-1, kind="stable")[..., :5])
    assert app.score(*paths, "top k", 1, 0) == rows[2:3]
    assert app.build().config["components"]


def test_the_page_reads_no_pickle_and_names_a_bad_file(app, tmp_path):
    import gradio

    good, bad = tmp_path / "good.npy", tmp_path / "bad.npy"
    np.save(good, app.example()[0])
    for values, message in ((np.array([{}]), "bad.npy"), (np.zeros((2, 3)), "one array of pairs")):
        np.save(bad, values, allow_pickle=True)
        with pytest.raises(gradio.Error, match=message):
            app.score(str(good), str(bad), "logits", 5, 0)
    with pytest.raises(gradio.Error, match="two models"):
        app.score(str(good), None, "logits", 5, 0)
