"""The audit's estimate of mu, under the name by which trap tests know it."""

from __future__ import annotations

from privet.attacks.gdp import MuEstimate, estimate_mu, mu_of_epsilon, power, visible_mu

__all__ = ["MuEstimate", "estimate_mu", "mu_of_epsilon", "power", "visible_mu"]
