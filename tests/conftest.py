"""What every test shares: no network, one thread per process, derandomised property tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
from hypothesis import HealthCheck, settings

from fixtures_small import small_folder  # noqa: F401 - a fixture

settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    """A test that runs something sets its process's number of threads; that of the next does not follow from it."""
    before = (
        sys.modules["torch"].get_num_threads() if "torch" in sys.modules else 1
    )  # as OMP_NUM_THREADS above
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(before)
