"""The table of results: every number that was measured once, whoever wrote it and however that ended."""

import json
import math
import subprocess
import sys

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from singlelife.errors import SingleLifeError
from singlelife.results import COLUMNS, ResultRow, append_results, read_results, to_frame


def row(**changes):
    usual = {"model": "runs/sim_1", "revision": "abc", "task": "cas", "protocol": "cas/1", "data": "sim_test"}
    return ResultRow(**usual | {"data_hash": "0" * 64, "metric": "raw", "value": 0.25} | changes)


def test_what_is_appended_is_read(tmp_path):
    file = tmp_path / "results.jsonl"
    rows = [row(), row(metric="centred", value=0.5, low=0.4, high=0.6, seed=3, settings={"k": 5}, version="1")]
    append_results(file, rows[:1])
    append_results(file, rows[1:])
    frame = read_results(file)
    assert list(frame.columns) == list(COLUMNS)
    pandas.testing.assert_frame_equal(frame, to_frame(rows), check_dtype=False)
    assert frame["settings"].tolist() == [{}, {"k": 5}] and frame["low"].tolist()[1] == 0.4


def test_the_latest_of_the_same_measurement_counts(tmp_path):
    file = tmp_path / "results.jsonl"
    append_results(file, [row(value=1.0), row(value=2.0, settings={"k": 10}), row(value=3.0, version="later")])
    assert read_results(file)["value"].tolist() == [2.0, 3.0]
    append_results(tmp_path / "more.jsonl", [row(value=4.0)])
    assert read_results(file, tmp_path / "more.jsonl")["value"].tolist() == [2.0, 4.0]


def test_a_number_that_is_not_defined_is_nan_and_the_file_stays_json(tmp_path):
    file = tmp_path / "results.jsonl"
    append_results(file, [row(value=math.nan)])
    json.loads(file.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert math.isnan(read_results(file)["value"][0])


@given(cut=st.integers(1, 200))
def test_a_line_that_a_killed_process_cut_short_is_left_out(tmp_path_factory, cut):
    file = tmp_path_factory.mktemp("cut") / "results.jsonl"
    append_results(file, [row(), row(metric="other")])
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    kept = len(read_results(file))
    assert kept == (2 if cut == 1 else 1)  # without its line feed a line is whole
    append_results(file, [row(metric="after")])
    assert len(read_results(file)) == kept + 1


@pytest.mark.parametrize("line", ['{"model": "a"}', "[1]", '{"nonsense": 1}', "{not json}"])
def test_a_line_that_is_no_result_is_named(tmp_path, line):
    file = tmp_path / "results.jsonl"
    append_results(file, [row()])
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(SingleLifeError, match=r"Line 2 of .*results.jsonl"):
        read_results(file)


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path):
    with pytest.raises(SingleLifeError, match=r"none\.jsonl"):
        read_results(tmp_path / "none.jsonl")
    with pytest.raises(SingleLifeError, match="results"):
        append_results(tmp_path / "no/such/results.jsonl", [row()])


_APPEND = """
import sys
from singlelife.results import ResultRow, append_results
for each in range(50):
    usual = dict(model="m", revision="r", task="cas", protocol="cas/1", data="d", data_hash="h", value=0.5)
    append_results(sys.argv[1], [ResultRow(metric=f"{sys.argv[2]}.{each}", **usual)])
"""


@pytest.mark.integration
def test_several_processes_append_to_one_file(tmp_path):
    file = tmp_path / "results.jsonl"
    processes = [subprocess.Popen([sys.executable, "-c", _APPEND, file, str(number)]) for number in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert len(read_results(file)) == 200
