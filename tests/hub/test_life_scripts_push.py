"""A script's --push against the loopback Hub: private unless it is said otherwise."""

from pathlib import Path

import pytest

from ..micro import write_clip

pytestmark = pytest.mark.integration

SCRIPTS = Path(__file__).parents[2] / "datasets_scripts"

RUN = """
import runpy, sys
sys.argv = words
try:
    runpy.run_path(words[0], run_name="__main__")
except SystemExit as stop:
    result = stop.code
"""


@pytest.mark.parametrize("public", [False, True])
def test_a_prepared_life_is_pushed(hub, hub_client, tmp_path, public):
    clip = write_clip(tmp_path / "amsterdam.mp4", seconds=1)
    words = [str(SCRIPTS / "walking_tours.py"), "wt_1", "--videos", str(clip), "--workers", "1"]
    words += ["--cache-dir", str(tmp_path / "cache"), "--push", "ann/life-wt-1", *(["--public"] if public else [])]
    answer = hub_client.ask(RUN, words=words)
    assert answer.error is None and answer.result == 0, answer.said
    assert f"pushed: {hub.url}/datasets/ann/life-wt-1" in answer.said
    assert ("The frames may show faces, and their licence is: CC BY 4.0" in answer.said) == public
    assert hub.repositories["dataset", "ann/life-wt-1"].private != public


def test_without_a_token_nothing_is_prepared(hub, hub_client, tmp_path):
    clip = write_clip(tmp_path / "amsterdam.mp4", seconds=1)
    words = [str(SCRIPTS / "walking_tours.py"), "wt_1", "--videos", str(clip), "--push", "ann/life-wt-1"]
    answer = hub_client.ask(RUN, token=None, words=[*words, "--cache-dir", str(tmp_path / "cache")])
    assert answer.result == 2 and "takes a token with write access" in answer.said
    assert not (tmp_path / "cache").exists() and not hub.repositories
