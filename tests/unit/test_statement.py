"""The sentence of the privacy statement never promises more than was proved."""

from __future__ import annotations

import re

import pytest

from privet.privacy import Release
from privet.privacy.ledger import Ledger
from privet.privacy.statement import privacy_statement


@pytest.mark.parametrize("sigma", [0.37, 0.9, 1.0, 2.3, 4.1, 11.0, 57.0])
def test_epsilon_in_the_guarantee_is_rounded_up(sigma: float) -> None:
    ledger = Ledger("record", "add-remove", 1e-5)
    ledger.charge(Release("sums", sigma))
    statement = privacy_statement(ledger, mechanism="m", clip_norm=1.0, noise_multiplier=sigma)
    found = re.search(r"epsilon = ([0-9.]+) ", statement["guarantee"])
    assert found
    printed, exact = float(found.group(1)), ledger.epsilon().value
    assert exact <= printed <= exact * 1.001
