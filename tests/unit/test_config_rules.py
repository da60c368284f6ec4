"""Every rule between sections has a configuration that breaks it, and all mistakes come at once."""

from __future__ import annotations

from typing import Any

import pytest
from support.toy import config

from privet.config import ConfigError, parse
from privet.config_rules import RULES

HEDGE: dict[str, Any] = {
    "system": {"kind": "hedge"},
    "model": {},
    "data": {"kind": "sentiment"},
    "schedule": {"sampling_rate": 0.1, "expected_batch": 10},
    "privacy": {"noise_multiplier": 1.0},
    "sealing": {"kind": "masked"},
}
CLIENT = {"unit": "client", "relation": "zero-out", "noise_multiplier": 1.0}
FEDAVG: dict[str, Any] = {"system": {"kind": "fedavg"}, "model": {}, "data": {"kind": "sentiment"}}
SHIELD: dict[str, Any] = FEDAVG | {"system": {"kind": "fedshield"}, "sealing": {"kind": "encrypted"}}
FAITHFUL = SHIELD | {"system": {"kind": "fedshield", "faithful": True}, "sealing": {"kind": "ckks"}}
DP_LORA = HEDGE | {"system": {"kind": "dp_lora"}, "sealing": {"kind": "none"}}
ENCODER: dict[str, Any] = HEDGE | {
    "system": {"kind": "dr_encoder"},
    "codec": {"kind": "autoencoder"},
    "privacy": CLIENT,
}
PUBLISHED = ENCODER | {"system": {"kind": "dr_encoder", "faithful": True}, "privacy": None}
COMPRESSED: dict[str, Any] = FEDAVG | {
    "system": {"kind": "cg_fedllm"},
    "codec": {"kind": "autoencoder"},
}

BROKEN: list[tuple[str, str, dict[str, Any]]] = [
    ("_privacy_matches_system", "privacy", HEDGE | {"privacy": None}),
    ("_privacy_matches_system", "privacy", DP_LORA | {"privacy": None}),
    ("_privacy_matches_system", "privacy", FEDAVG | {"privacy": CLIENT}),
    ("_noise_is_given_once", "privacy.target_epsilon", HEDGE | {"privacy": {}}),
    (
        "_noise_is_given_once",
        "privacy.target_epsilon",
        HEDGE | {"privacy": {"noise_multiplier": 1.0, "target_epsilon": 2.0}},
    ),
    (
        "_noise_is_given_once",
        "privacy.max_epsilon",
        HEDGE | {"privacy": {"target_epsilon": 2.0, "max_epsilon": 1.0}},
    ),
    ("_record_level_needs_sampling", "schedule.sampling_rate", HEDGE | {"schedule": {"expected_batch": 10}}),
    ("_record_level_needs_sampling", "schedule.expected_batch", HEDGE | {"schedule": {"sampling_rate": 0.1}}),
    (
        "_client_level_is_zero_out",
        "privacy.relation",
        HEDGE | {"privacy": CLIENT | {"relation": "add-remove"}},
    ),
    ("_weights_are_public_shares", "schedule.weights", FEDAVG | {"schedule": {"weights": [0.5, 2.0]}}),
    ("_weights_are_public_shares", "schedule.weights", FEDAVG | {"schedule": {"weights": [0.5, 0.0]}}),
    ("_weights_are_public_shares", "schedule.weights", FEDAVG | {"schedule": {"weights": []}}),
    (
        "_weights_are_public_shares",
        "schedule.weights",
        HEDGE | {"schedule": HEDGE["schedule"] | {"weights": [0.5, 0.5]}},
    ),
    (
        "_weights_are_public_shares",
        "schedule.weights",
        ENCODER
        | {
            "privacy": {"noise_multiplier": 1.0},
            "schedule": HEDGE["schedule"] | {"weights": [0.5, 0.5]},
        },
    ),
    (
        "_decay_has_rounds_left",
        "schedule.server.warmup_rounds",
        FEDAVG | {"schedule": {"rounds": 3, "server": {"warmup_rounds": 3, "decay": "linear"}}},
    ),
    ("_noise_shares_need_a_seal", "sealing.kind", HEDGE | {"sealing": {"kind": "none"}}),
    ("_noise_shares_need_a_seal", "sealing.kind", HEDGE | {"sealing": {"kind": "ckks"}}),
    ("_noise_shares_need_a_seal", "sealing.kind", SHIELD | {"privacy": CLIENT, "sealing": {"kind": "ckks"}}),
    ("_faithful_needs_its_seal", "sealing.kind", FAITHFUL | {"sealing": {"kind": "masked"}}),
    ("_faithful_needs_its_seal", "codec.kind", FAITHFUL | {"codec": {"kind": "prune"}}),
    ("_faithful_needs_its_seal", "privacy", FAITHFUL | {"privacy": CLIENT}),
    ("_fedshield_protects_clients", "privacy.unit", SHIELD | {"privacy": {"noise_multiplier": 1.0}}),
    (
        "_faithful_dp_lora",
        "privacy.unit",
        DP_LORA | {"system": {"kind": "dp_lora", "faithful": True}},
    ),
    ("_dr_encoder_bounds_what_it_sends", "privacy", ENCODER | {"privacy": None}),
    ("_dr_encoder_bounds_what_it_sends", "sealing.kind", ENCODER | {"sealing": {"kind": "ckks"}}),
    (
        "_dr_encoder_bounds_what_it_sends",
        "privacy.target_epsilon",
        ENCODER
        | {
            "system": {"kind": "dr_encoder", "faithful": True},
            "privacy": {"unit": "client", "relation": "zero-out", "target_epsilon": 8.0},
        },
    ),
    ("_learned_codecs_have_a_source", "codec.kind", HEDGE | {"codec": {"kind": "autoencoder"}}),
    ("_learned_codecs_have_a_source", "codec.kind", ENCODER | {"codec": {"kind": "prune"}}),
    ("_learned_codecs_have_a_source", "codec.kind", COMPRESSED | {"codec": {"kind": "identity"}}),
    ("_learned_codecs_have_a_source", "sealing.kind", COMPRESSED | {"sealing": {"kind": "masked"}}),
    ("_privacy_matches_system", "privacy", COMPRESSED | {"privacy": CLIENT}),
    (
        "_learned_codecs_have_a_source",
        "codec.allocation",
        ENCODER | {"codec": {"kind": "count_sketch"}},
    ),
    (
        "_learned_codecs_have_a_source",
        "codec.allocation",
        ENCODER | {"codec": {"kind": "random_projection"}},
    ),
    (
        "_error_feedback_keeps_the_guarantee",
        "codec.error_feedback",
        HEDGE | {"codec": {"kind": "prune", "error_feedback": True}},
    ),
    (
        "_error_feedback_keeps_the_guarantee",
        "codec.error_feedback",
        FEDAVG | {"codec": {"kind": "identity", "error_feedback": True}},
    ),
    (
        "_error_feedback_keeps_the_guarantee",
        "codec.error_feedback",
        FEDAVG | {"codec": {"kind": "prune", "error_feedback": True}, "sealing": {"kind": "masked"}},
    ),
    (
        "_error_feedback_keeps_the_guarantee",
        "codec.scale",
        FEDAVG | {"codec": {"kind": "count_sketch", "scale": "unbiased", "error_feedback": True}},
    ),
    (
        "_codec_is_possible",
        "codec.source",
        HEDGE
        | {
            "codec": {"kind": "row_pca", "source": "self_generated"},
            "data": {"kind": "jsonl", "path": "a.jsonl", "template": {"kind": "chat"}},
        },
    ),
    ("_codec_is_possible", "codec.support", HEDGE | {"codec": {"kind": "top_k", "support": "client"}}),
    (
        "_colluders_leave_a_share",
        "privacy.trust.colluders",
        HEDGE
        | {
            "schedule": HEDGE["schedule"] | {"min_survivors": 3},
            "privacy": {"noise_multiplier": 1.0, "trust": {"colluders": 3}},
        },
    ),
]


def test_every_rule_has_a_failing_example() -> None:
    assert {rule for rule, _, _ in BROKEN} == {rule.__name__ for rule in RULES}


@pytest.mark.parametrize(
    "whole",
    [HEDGE, DP_LORA, FEDAVG, SHIELD, FAITHFUL, ENCODER, PUBLISHED, COMPRESSED, HEDGE | {"privacy": CLIENT}],
)
def test_what_the_examples_break_is_whole(whole: dict[str, Any]) -> None:
    parse(whole)


@pytest.mark.parametrize(("rule", "path", "raw"), BROKEN)
def test_a_broken_rule_is_named(rule: str, path: str, raw: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(raw)
    problem = next(p for p in caught.value.problems if p.path == path)
    assert problem.message
    assert problem.allowed
    assert f"  - {path}: {problem.message}" in str(caught.value)
    only = next(r for r in RULES if r.__name__ == rule)
    unchecked = config().__class__.model_validate(raw)
    assert path in {row[0] for row in only(unchecked)}


def test_all_broken_rules_come_at_once() -> None:
    raw = HEDGE | {
        "privacy": {"unit": "client", "target_epsilon": 2.0, "max_epsilon": 1.0, "trust": {"colluders": 5}},
        "schedule": {"weights": [3.0], "min_survivors": 2},
        "sealing": {"kind": "none"},
        "codec": {"kind": "autoencoder"},
    }
    with pytest.raises(ConfigError) as caught:
        parse(raw)
    paths = [problem.path for problem in caught.value.problems]
    assert paths == [
        "privacy.max_epsilon",
        "privacy.relation",
        "schedule.weights",
        "schedule.weights",
        "sealing.kind",
        "codec.kind",
        "privacy.trust.colluders",
    ]
    assert caught.value.message.startswith("7 mistakes")
