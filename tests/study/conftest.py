"""A study of two models that train for a few steps, with every kind of step."""

from pathlib import Path

import pytest
import yaml

from ..pretraining.conftest import MICRO_MODEL


@pytest.fixture(scope="session")
def micro_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "micro.yaml"
    path.write_text(MICRO_MODEL)
    return path


@pytest.fixture
def content(sim_test, sim_still, micro_model) -> dict:
    """Of the file; to change before it is written."""
    test, still = str(sim_test.path), str(sim_still.path)
    return {
        "title": "A miniature",
        "about": "Two micro models.",
        "limits": ["It says nothing of the world."],
        "train": {
            "model": str(micro_model), "max_steps": 4, "train_batch_size": 8, "eval_pairs": 8, "warmup_steps": 1,
            "dataloader_num_workers": 0, "mixed_precision": "no", "attention": "sdpa", "max_gap": 0.4, "save_steps": 2,
            "save_total_limit": 1, "keep_best": False,
        },
        "models": {
            "walks": {"life": test, "seed": [0, 1], "hours": [0.004, None]},
            "still": {"life": still, "seed": [0, 1]},
            "other": {"life": test, "seed": 5},
        },
        "measures": {
            "agreement": {
                "command": "align", "each": True, "against": "other", "models": ["walks", "still"], "pairs": test,
                "num_pairs": 8,
            },
            "depth": {
                "command": "evaluate depth", "each": True, "models": ["walks"], "train": [test], "num_train": 20,
                "test": [still], "num_test": 8, "seeds": 1, "epochs": 1, "no_baselines": True,
            },
            "correspondence": {
                "command": "evaluate correspondence", "each": True, "models": ["walks"], "data": test, "num_pairs": 4,
                "no_baselines": True,
            },
            "groups": {
                "command": "align", "models": ["walks", "still"], "pairs": test, "num_pairs": 8,
                "groups": {"walks": ["walks"], "still": ["still"]},
            },
        },
        "questions": {
            "emergence": {
                "ask": "How much life?", "finding": "More is better.", "analysis": "curve",
                "measures": {"agreement": "agreement"}, "models": {"walk": ["walks"]},
                "controls": {"still": ["still"]},
            },
            "groups": {
                "ask": "Do walks agree?", "finding": "They do.", "analysis": "groups", "measures": {"all": "groups"},
            },
            "transfer": {
                "ask": "Does it transfer?", "finding": "It does.", "analysis": "correlation", "models": ["walks"],
                "measures": {"agreement": "agreement", "depth": "depth", "correspondence": "correspondence"},
            },
        },
        "run": {"side_by_side": 2, "threads": 1},
    }  # fmt: skip


@pytest.fixture
def write(tmp_path: Path):
    def written(content: dict) -> Path:
        path = tmp_path / "mini.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return written
