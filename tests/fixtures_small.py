"""The small language model as a fixture: trained once on a machine, whoever asks first; the others wait for it."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def small_folder() -> Path:
    """Folder of the small model (`model.name: small`)."""
    from privet.small_model import small_model_dir

    return small_model_dir()
