"""How fast the picture of a life moves, and the gaps of its pairs."""

from dataclasses import replace

import numpy as np
import pytest

from singlelife.errors import LifeError
from singlelife.lives.pairs.motion import AIM, GAPS_WITHOUT_MOTION, measure_motion, with_gaps
from singlelife.lives.pairs.pairing import PairingContext, PairSettings, TemporalPairing
from singlelife.lives.prepare import prepare_life
from singlelife.lives.registry import get_life

from ..micro import write_clip

WALL = np.random.default_rng(0).integers(0, 256, (16, 500), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)


def moving(pixels: float):
    """Frames of a camera that passes a wall, so many pixels from one frame to the next."""

    def picture(index: int, height: int, width: int) -> np.ndarray:
        left = round(pixels * index)
        return np.repeat(WALL[:height, left : left + width, None], 3, axis=2)

    return picture


def life_of(tmp_path, name: str, pixels: float, rate: int):
    clip = write_clip(tmp_path / f"{name}.mp4", rate=rate, height=128, width=192, picture=moving(pixels))
    return prepare_life(get_life(name, [clip]), cache_dir=tmp_path / "cache", progress=False)


@pytest.mark.parametrize(("pixels", "rate"), [(4, 10), (8, 10), (12, 5)])
def test_motion_is_a_share_of_the_side_a_second(tmp_path, pixels, rate):
    motion = measure_motion(life_of(tmp_path, f"wall-{pixels}-{rate}", pixels, rate))
    assert motion.speed == pytest.approx(pixels * rate / 128, rel=0.15)
    assert motion.interval == pytest.approx(1 / rate)
    for seconds in (3.9, 3600):
        shortest, longest = replace(motion, seconds=seconds).gaps
        assert longest == pytest.approx(min(AIM[1] / motion.speed, max(seconds / 10, 1.5 / rate)), abs=0.001)
        assert shortest == pytest.approx(min(longest, max(AIM[0] / motion.speed, 0.9 / rate)), abs=0.001)
    assert f"{shortest:g} to {longest:g} s" in str(replace(motion, seconds=3600))


def test_a_camera_that_stands_still_has_gaps_too(tmp_path):
    motion = measure_motion(life_of(tmp_path, "still", 0, 10))
    assert motion.speed == 0 and replace(motion, seconds=3600).gaps == GAPS_WITHOUT_MOTION
    assert motion.gaps[1] == pytest.approx(0.39, abs=0.02), "a tenth of a recording of four seconds"
    assert "stands still" in str(motion)


def test_gaps_that_are_given_stay_and_bound_those_that_are_measured(tmp_path):
    life = life_of(tmp_path, "wall", 4, 10)
    shortest, longest = measure_motion(life).gaps
    assert with_gaps(PairSettings(min_gap=0.2, max_gap=0.4), life) == PairSettings(min_gap=0.2, max_gap=0.4)
    assert with_gaps(PairSettings(), life) == PairSettings(min_gap=shortest, max_gap=longest)
    assert with_gaps(PairSettings(max_gap=shortest / 2), life).min_gap == shortest / 2
    assert with_gaps(PairSettings(min_gap=2 * longest), life).max_gap == 2 * longest
    pairing = TemporalPairing.of(PairingContext.of_life(life, PairSettings()))
    assert (pairing.min_gap, pairing.max_gap) == (shortest, longest)
    with pytest.raises(LifeError, match="--max-gap"):
        replace(PairSettings(min_gap=0.5), max_gap=0.2)
