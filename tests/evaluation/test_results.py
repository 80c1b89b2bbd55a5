"""What is found: intervals by hand, rows for the table of results, and models that cannot be measured."""

import numpy as np
import pytest

from singlelife.errors import CheckpointError, EvaluationError
from singlelife.evaluation.results import Evaluation, Measure, ModelResult, measure_models
from singlelife.results import append_results, read_results


def test_a_measure_by_hand():
    measure = Measure.of(np.array([[0.0, 1.0], [1.0, 1.0]]))
    assert measure.mean == 0.75 and [value for value, _, _ in measure.per_seed] == [0.5, 1.0]
    assert measure.std == pytest.approx(np.std([0.5, 1.0], ddof=1))
    assert (measure.low, measure.high) == (0.5, 1.0)  # of resampled images, of which one has 0.5 and one 1
    assert measure.per_seed[0] == (0.5, 0.0, 1.0) and measure.per_seed[1] == (1.0, 1.0, 1.0)
    assert Measure.of(np.array([[0.2, 0.4]])).std == 0


def test_a_row_for_each_model_metric_and_seed(tmp_path):
    two_seeds = Measure.of(np.array([[0.0, 1.0], [1.0, 1.0]]))
    models = (
        ModelResult("runs/a", "abc", {"delta1": two_seeds, "rmse": two_seeds}, {"layers": [1]}),
        ModelResult("mean depth", "", {"delta1": Measure.of(np.array([[0.5, 0.5]])), "rmse": two_seeds}),
    )
    evaluation = Evaluation(
        task="depth", protocol="depth-nyu/1", data="nyu", data_hash="f" * 64, num_items=2, settings={"epochs": 3},
        seeds=(0, 1), models=models, left_out={"3": "no depth"},
    )  # fmt: skip
    append_results(tmp_path / "results.jsonl", evaluation.rows())
    frame = read_results(tmp_path / "results.jsonl")
    assert len(frame) == 7 and len(evaluation.to_frame()) == 7
    one = frame[(frame.model == "runs/a") & (frame.metric == "delta1")]
    assert one.value.tolist() == [0.5, 1.0] and one.seed.tolist() == [0, 1] and one.low.tolist() == [0.0, 1.0]
    assert one.settings.tolist() == [{"epochs": 3, "layers": [1]}] * 2
    text = str(evaluation)
    assert "0.750 ± 0.354" in text and "0.500 to 1.000" in text and "no depth" in text


class Loaded:
    """A model of which only these matter."""

    def __init__(self, name: str):
        self.name, self.revision = name, name.removeprefix("untrained:").rstrip("@0123456789")


def measured(model: Loaded) -> ModelResult:
    if "broken" in model.name:
        raise CheckpointError("its weights are not finite")
    return ModelResult(model.name, model.revision, {})


def test_models_then_one_untrained_for_each_architecture():
    results, failed = measure_models(["x", "untrained:y@1", "broken", "z"], Loaded, measured, baselines=True)
    assert [result.model for result in results] == ["x", "untrained:y@1", "z"]  # of x and z there are twins already
    assert list(failed) == ["broken"]
    with pytest.raises(EvaluationError, match="not finite"):
        measure_models(["broken"], Loaded, measured, baselines=True)
