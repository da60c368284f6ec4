"""The clip norm from public records is the length of what the run clips: gradient, update, or code of either."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.encoder import encoder
from support.toy import DIMENSION, Floats, ToyTrainer, config, examples, split
from support.toy_runs import material

from privet.codecs.public_subspace import PublicSubspace
from privet.codecs.random_projection import RandomProjection
from privet.config import Config
from privet.errors import PrivetError
from privet.public_clip import public_clip_norm

PUBLIC = examples(80, seed=9)
PROJECTION = {"kind": "random_projection", "ratio": 4}
STEPS = {"sampling_rate": None, "expected_batch": None, "local": {"steps": 2, "batch_size": 5}}


def run(**sections: Any) -> Config:
    return config(privacy={"noise_multiplier": 1.0, "clip_norm": "public"}, **sections)


def client(**sections: Any) -> Config:
    privacy = {"unit": "client", "relation": "zero-out", "noise_multiplier": 1.0, "clip_norm": "public"}
    return config(privacy=privacy, schedule=STEPS, **sections)


def norm(of: Config) -> float:
    return public_clip_norm(of, material(split(examples(20), 2), PUBLIC))


def gradients() -> Floats:
    return np.concatenate([rows for _, rows in ToyTrainer().per_unit_gradients(PUBLIC, 16)])


def updates() -> Floats:
    """Updates of blocks of the ten records that two steps of five see, the first eight of them."""
    local, zero = client().schedule.local, np.zeros(DIMENSION, np.float32)
    blocks = [PUBLIC[start : start + 10] for start in range(0, 80, 10)]
    return np.stack([ToyTrainer().train_locally(zero, block, local, bytes(32)) for block in blocks])


def median(rows: Floats) -> Any:
    return pytest.approx(np.median(np.linalg.norm(rows, axis=1)), rel=1e-5)


def test_a_record_is_its_gradient_and_a_client_its_update() -> None:
    assert norm(run()) == median(gradients())
    assert norm(client()) == median(updates())


@pytest.mark.parametrize("unit", ["record", "client"])
def test_where_codes_are_clipped_their_length_counts(unit: str) -> None:
    rows, of = (gradients(), run) if unit == "record" else (updates(), client)
    projection = RandomProjection(DIMENSION, DIMENSION // 4, seed=0)
    found = norm(of(codec=PROJECTION))
    assert found == median(projection.encode(rows))
    assert found < 0.8 * np.median(np.linalg.norm(rows, axis=1)), "codes of a projection are shorter"


def test_records_that_the_codec_learned_from_are_left_out() -> None:
    subspace = {"kind": "public_subspace", "size": 4, "updates": 40}
    codec = PublicSubspace.fit(gradients()[:40], 4)
    assert norm(run(codec=subspace)) == median(codec.encode(gradients()[40:]))


def test_too_few_others_and_all_count() -> None:
    subspace = {"kind": "public_subspace", "size": 4, "updates": 70}
    codec = PublicSubspace.fit(gradients()[:70], 4)
    assert norm(run(codec=subspace)) == median(codec.encode(gradients()))


def test_local_private_steps_clip_gradients_whatever_encodes_their_update() -> None:
    steps = {"sampling_rate": 0.1, "expected_batch": 10, "local": {"steps": 2}}
    local = run(system={"kind": "dp_lora"}, schedule=steps, codec=PROJECTION, sealing={"kind": "none"})
    assert norm(local) == median(gradients())
    published = client(
        system={"kind": "dp_lora", "faithful": True}, codec=PROJECTION, sealing={"kind": "none"}
    )
    assert norm(published) == median(gradients())


def test_a_codec_that_is_still_to_be_learned_does_not_count() -> None:
    learned = encoder(
        privacy={"unit": "client", "relation": "zero-out", "noise_multiplier": 0.5, "clip_norm": "public"},
        schedule=STEPS,
    )
    assert norm(learned) == median(updates())


def test_without_public_records_there_is_no_norm() -> None:
    with pytest.raises(PrivetError, match="no public records"):
        public_clip_norm(run(), material(split(examples(20), 2)))
