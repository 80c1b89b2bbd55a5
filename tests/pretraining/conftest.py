"""Every test here trains, or may."""

import pytest


@pytest.fixture(autouse=True)
def each_run_is_like_one_of_its_own(fresh_accelerate: None) -> None:
    pass
