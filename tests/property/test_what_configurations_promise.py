"""Whatever is accepted: a finite epsilon stands only where something is clipped, noised and charged as it runs."""

from __future__ import annotations

import random
from typing import Any

from support.toy import DIMENSION, config

from privet.config import ConfigError
from privet.errors import PrivetError
from privet.pipeline import Clip, ClipGroups, Pipeline, Round, Share
from privet.privacy.events import NoGuarantee
from privet.resolve import Resolved, resolve
from privet.systems import System
from privet.work import LocalDpSgd, SampledGradients

DRAWS, ACCEPTED = 1500, 150
FAITHFUL = ("dp_lora", "fedshield", "dr_encoder")
CODECS: list[dict[str, Any]] = [
    {"kind": "identity"},
    {"kind": "random_projection", "ratio": 4},
    {"kind": "count_sketch", "ratio": 4},
    {"kind": "top_k", "ratio": 4, "support": "client"},
    {"kind": "prune"},
    {"kind": "autoencoder", "ratio": 4},
    {"kind": "public_subspace", "size": 8},
]


def drawn(one: random.Random) -> dict[str, Any]:
    """Sections as a person might combine them; most of these are mistakes."""
    system: dict[str, Any] = {"kind": one.choice(["hedge", "dp_lora", "fedshield", "fedavg", "dr_encoder"])}
    if system["kind"] in FAITHFUL:
        system["faithful"] = one.random() < 0.25
    privacy = {
        "unit": one.choice(["record", "client"]),
        "relation": one.choice(["add-remove", "zero-out", "replace-one"]),
        "noise_multiplier": 10 ** one.uniform(-0.5, 1.5),
        "trust": {"colluders": one.choice([0, 1, 1, 2, 3])},
    }
    return {
        "insecure_test_seed": None,
        "system": system,
        "privacy": privacy if one.random() < 0.85 else None,
        "sealing": {"kind": one.choice(["none", "masked", "encrypted", "encrypted+masked", "ckks"])},
        "schedule": {
            "rounds": one.choice([1, 5, 40]),
            "sampling_rate": one.choice([None, 0.01, 0.2, 1.0]),
            "expected_batch": one.choice([None, 8.0, 32.0]),
            "local": {"steps": one.choice([1, 3])},
            "min_survivors": one.choice([None, None, 3, 4]),
        },
        "codec": one.choice(CODECS),
    }


def noised(system: System) -> Pipeline:
    """The pipeline whose noise a system is charged for."""
    return system.work.step if isinstance(system.work, LocalDpSgd) else system.pipeline


def check(found: Resolved) -> None:
    """One accepted configuration."""
    c, trust = found.config, found.trust
    parts = [found.system, *([found.system.preparation.system] if found.system.preparation else [])]
    for system in parts:
        if isinstance(system.release, NoGuarantee):
            continue
        assert c.privacy is not None
        pipeline = noised(system)
        (share,) = [stage for stage in pipeline.stages if isinstance(stage, Share)]
        (clip,) = [stage for stage in pipeline.stages if isinstance(stage, Clip | ClipGroups)]
        (rounding,) = [stage for stage in pipeline.stages if isinstance(stage, Round)]
        mechanism = share.mechanism
        assert (mechanism.clip_norm, mechanism.grid) == (clip.norm, rounding.grid)
        assert system.release.noise_multiplier == mechanism.noise_multiplier
        assert system.release.delta_prime == mechanism.delta_prime
        # A share is at least as large as the floor that every observer's epsilon is counted by makes it.
        assert mechanism.floor <= (1 if trust.noise == "local" else trust.floor)
        assert trust.floor <= trust.min_survivors - trust.colluders
        # What is sampled is what amplification is claimed for, step by step.
        work = system.work.gradients if isinstance(system.work, LocalDpSgd) else system.work
        rate = work.rate if isinstance(work, SampledGradients) else 1.0
        assert system.release.sampling.rate == rate
        steps = c.schedule.local.steps if isinstance(system.work, LocalDpSgd) else 1
        assert system.release.count == steps
        assert (c.privacy.unit == "record") == isinstance(work, SampledGradients)
        if trust.noise == "shares":
            assert c.sealing.kind in {"masked", "encrypted", "encrypted+masked"}, "exact, and no single ones"
    if c.privacy is None:
        assert all(isinstance(system.release, NoGuarantee) for system in parts)


def test_a_finite_epsilon_stands_only_for_what_is_clipped_and_noised() -> None:
    one, accepted = random.Random(5), 0
    for _ in range(DRAWS):
        sections, parties = drawn(one), one.choice([4, 5, 7])
        try:
            found = resolve(config(**sections), dimension=DIMENSION, parties=parties)
        except (ConfigError, PrivetError):
            continue
        check(found)
        accepted += 1
    assert accepted > ACCEPTED, "the draws are not all mistakes"
