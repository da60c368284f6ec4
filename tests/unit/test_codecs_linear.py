"""What single codecs promise: unbiasedness, exactness on their span, schedules, supports, and refusals."""

from __future__ import annotations

import re
import tracemalloc
from typing import Any

import numpy as np
import pytest

from privet.codecs import (
    ErrorFeedback,
    Identity,
    Provenance,
    check_error_feedback,
    check_sound,
    from_body,
    unpack,
)
from privet.codecs.base import size_for
from privet.codecs.count_sketch import CountSketch
from privet.codecs.message import POOLS
from privet.codecs.prune import Prune, pruned_share
from privet.codecs.public_subspace import PublicSubspace
from privet.codecs.random_projection import RandomProjection
from privet.codecs.row_pca import RowPca
from privet.codecs.seeded import permutation, signs, words
from privet.codecs.top_k import ClientTopK, PublicTopK
from privet.errors import PrivetError
from privet.protocol import RoundAborted

FEDSHIELD = {"start_round": 40, "start": 0.2, "end": 0.5}


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("kind", [RandomProjection, CountSketch])
def test_the_unbiased_scale_is_unbiased_over_seeds(kind: type) -> None:
    """Mean over 3000 seeds within 5 standard errors in each of 24 coordinates; false alarms about 1e-5."""
    row, draws = normal(0, 1, 24), 3000
    decoded = []
    for seed in range(draws):
        codec = kind(24, 6, seed, "unbiased")
        decoded.append(codec.decode(codec.encode(row)[0]))
    mean, error = np.mean(decoded, axis=0), np.std(decoded, axis=0) / np.sqrt(draws)
    assert np.all(np.abs(mean - row[0]) < 5 * error)


def test_the_projection_scale_shrinks_by_the_share_kept() -> None:
    """Mean over 3000 seeds within 5 standard errors of (k/D) x; false alarms about 1e-5."""
    row, draws = normal(1, 1, 24), 3000
    codecs = [RandomProjection(24, 6, seed) for seed in range(draws)]
    decoded = [codec.decode(codec.encode(row)[0]) for codec in codecs]
    error = np.std(decoded, axis=0) / np.sqrt(draws)
    assert np.all(np.abs(np.mean(decoded, axis=0) - row[0] / 4) < 5 * error)


@pytest.mark.parametrize("kind", [RandomProjection, CountSketch])
def test_a_projection_keeps_its_share_of_the_energy(kind: type) -> None:
    """Cosine of one of 10,007 values at 16x: 0.25, with a spread of about 0.01 over seeds."""
    row = normal(2, 1, 10_007)
    codec = kind(10_007, size_for(10_007, 16), 5)
    decoded = codec.decode(codec.encode(row)[0])
    cosine = float(decoded @ row[0] / np.linalg.norm(decoded) / np.linalg.norm(row))
    assert cosine == pytest.approx(0.25, abs=0.03)
    assert codec.dimension / codec.size == pytest.approx(16, rel=1e-2)


def test_public_draws_are_the_same_everywhere() -> None:
    """Pinned: clients with other versions of NumPy must agree on a projection."""
    assert words(7, "test", 2).tolist() == [1943623140989077723, 7490946009856357139]
    assert signs(7, "test", 8).tolist() == [-1, -1, 1, -1, -1, 1, -1, -1]
    assert permutation(7, "test", 6).tolist() == [2, 0, 3, 5, 1, 4]


def test_a_subspace_is_exact_on_its_span_and_drops_what_is_orthogonal() -> None:
    public = normal(3, 5, 300)
    codec = PublicSubspace.fit(public, 5)
    inside = (normal(4, 1, 5) @ public).astype(np.float32)
    np.testing.assert_allclose(codec.decode(codec.encode(inside)[0]), inside[0], rtol=1e-4, atol=1e-4)
    outside = normal(5, 1, 300)
    outside -= codec.decode(codec.encode(outside)[0])
    np.testing.assert_allclose(codec.encode(outside), 0, atol=1e-5)
    np.testing.assert_allclose(codec.basis @ codec.basis.T, np.eye(5), atol=1e-5)


def test_a_subspace_cannot_have_more_directions_than_its_gradients() -> None:
    public = normal(6, 3, 50)
    with pytest.raises(PrivetError, match="at most 3"):
        PublicSubspace.fit(np.concatenate([public, public, np.zeros((4, 50), np.float32)]), 5)
    with pytest.raises(PrivetError, match="at most 0"):
        PublicSubspace.fit(np.full((2, 50), np.nan, np.float32), 1)


def test_one_long_gradient_takes_no_direction_for_itself() -> None:
    first, second = np.eye(2, 40, dtype=np.float32)
    public = np.stack([second, second, 1e6 * first])
    codec = PublicSubspace.fit(public, 1)
    assert abs(float(codec.basis[0] @ second)) == pytest.approx(1, abs=1e-6)


def test_row_pca_finds_the_directions_of_rows() -> None:
    layout = tuple((f"layers.{i}.lora_A", (8, 60)) for i in range(5))
    directions = normal(7, 3, 60)

    def updates(seed: int, n: int) -> np.ndarray:
        return (normal(seed, n, 5 * 8, 3) @ directions).reshape(n, -1)

    codec = RowPca.fit(updates(8, 20), layout, 20)
    held_out = updates(9, 4)
    assert codec.size == 5 * 8 * 3
    for row in held_out:
        np.testing.assert_allclose(codec.decode(codec.encode(row[None])[0]), row, rtol=1e-3, atol=1e-3)


def test_row_pca_spends_where_the_energy_is() -> None:
    layout = (("a", (10, 20)), ("b", (10, 20)))
    updates = normal(10, 30, 400)
    updates[:, 200:] *= 10
    codec = RowPca.fit(updates, layout, 4, rows="factor")
    assert [len(basis) for basis in codec.bases] == [0, 10]


def test_row_pca_takes_as_rows_what_keeps_more_of_held_out_updates_and_refuses_larger_ratios() -> None:
    layout = tuple((f"layers.{i}.lora_B", (60, 8)) for i in range(5))
    rows_alike = (normal(11, 40, 5 * 8, 1) @ normal(12, 1, 60)).reshape(40, 5, 8, 60)
    updates = rows_alike.transpose(0, 1, 3, 2).reshape(40, -1)
    assert RowPca.fit(updates, layout, 60).positions[0].shape == (40, 60)
    assert RowPca.fit(updates, layout, 240).positions[0].shape == (5, 480)
    factors_alike = (normal(13, 40, 5, 1) @ normal(14, 1, 480)).reshape(40, -1)
    assert RowPca.fit(factors_alike, layout, 60).positions[0].shape == (5, 480)
    assert RowPca.fit(updates[:1], layout, 60).positions[0].shape == (40, 60)
    with pytest.raises(PrivetError, match="at most 480"):
        RowPca.fit(updates, layout, 900)


def test_the_pruning_schedule_starts_late_rises_and_is_capped() -> None:
    shares = [pruned_share(r, 100, **FEDSHIELD) for r in range(100)]
    assert shares[:40] == [0.0] * 40
    assert shares[40] == 0.2
    assert shares[99] == 0.5
    assert np.all(np.diff(shares[40:]) > 0)
    assert pruned_share(10_000, 100, **FEDSHIELD) == 0.5
    assert pruned_share(60, 100, **FEDSHIELD, end_round=50) == 0.5
    assert pruned_share(45, 100, **FEDSHIELD, end_round=50) == pytest.approx(0.35)
    assert pruned_share(40, 41, **FEDSHIELD) == 0.5


def test_pruning_keeps_the_largest_of_what_was_released() -> None:
    released = np.array([0.1, -5, 0, 3, -0.2, 1], np.float32)
    codec = Prune.largest(released, 0.5)
    assert codec.mask.tolist() == [False, True, False, True, False, True]
    assert codec.size == 3
    assert codec.provenance is Provenance.PUBLIC
    assert codec.decode(np.array([1.0, 2, 3])).tolist() == [0, 1, 0, 2, 0, 3]
    assert Prune.seeded(1000, 0.5, 1).size == 500
    assert Prune.seeded(1000, 0.5, 1).provenance is Provenance.SEED
    with pytest.raises(PrivetError):
        Prune.largest(released, 0.0)
    with pytest.raises(PrivetError):
        Prune(np.zeros(4, bool), Provenance.SEED)


def test_the_bytes_of_a_pruned_code_fall_with_the_share() -> None:
    codec = Prune.seeded(1000, 0.2, 1)
    assert codec.encode(normal(0, 1, 1000)).nbytes == 4 * 200


def test_top_k_of_a_client_carries_positions_and_is_refused_where_they_would_leak() -> None:
    rows = np.array([[0, 5, -7, 1], [9, 0, 0, -1]], np.float32)
    codec = ClientTopK(4, 2)
    assert codec.encode(rows).tolist() == [[5, -7, 1, 2], [9, -1, 0, 3]]
    assert codec.decode(codec.encode(rows)[0]).tolist() == [0, 5, -7, 0]
    with pytest.raises(RoundAborted):
        codec.decode(codec.encode(rows).sum(axis=0))
    check_sound(codec, private=False, sealed=False)
    for private, sealed in ((True, False), (False, True)):
        with pytest.raises(PrivetError, match="leak and do not line up"):
            check_sound(codec, private=private, sealed=sealed)
    with pytest.raises(PrivetError, match="float32"):
        ClientTopK((1 << 24) + 1, 2)


def test_top_k_of_a_public_gradient_is_sound() -> None:
    codec = PublicTopK.of(np.array([0, 5, -7, 1], np.float32), 2)
    assert codec.support.tolist() == [1, 2]
    check_sound(codec, private=True, sealed=True)


def test_codecs_from_exact_updates_are_refused_where_an_epsilon_is_claimed() -> None:
    for codec in (
        PublicSubspace.fit(normal(0, 4, 20), 2, provenance=Provenance.EXACT),
        RowPca.fit(normal(0, 4, 20), (("a", (4, 5)),), 2, provenance=Provenance.EXACT),
    ):
        check_sound(codec, private=False, sealed=True)
        with pytest.raises(PrivetError, match="exact private updates"):
            check_sound(codec, private=True, sealed=True)


def test_a_codec_with_batch_norm_over_clients_is_refused() -> None:
    class WithBatchNorm(Identity):
        cross_client_state = True

    with pytest.raises(PrivetError, match="BatchNorm"):
        check_sound(WithBatchNorm(3), private=True, sealed=False)
    check_sound(Identity(3), private=True, sealed=True)


@pytest.mark.parametrize(
    "broken",
    [
        {"kind": "nothing"},
        {},
        {"kind": "identity", "dimension": True},
        {"kind": "random_projection", "dimension": 4, "size": 2, "seed": 0, "scale": "wide"},
        {"kind": "prune", "dimension": 9, "mask": np.zeros(1, np.uint8), "provenance": "SEED"},
        {"kind": "prune", "dimension": 8, "mask": np.ones(1, np.uint8), "provenance": "TRUST_ME"},
        {"kind": "top_k", "choice": "public", "dimension": 3, "support": np.array([0, 3])},
        {"kind": "top_k", "choice": "public", "dimension": 3, "support": np.array([2, 1])},
        {"kind": "public_subspace", "basis": np.eye(3), "provenance": "PUBLIC"},
        {
            "kind": "per_tensor",
            "dimension": 4,
            "parts": 1,
            "provenance": "SEED",
            "0/kind": "identity",
            "0/dimension": 3,
            "0/spans": np.array([[0, 5]]),
        },
    ],
)
def test_a_broken_message_makes_no_codec(broken: dict[str, object]) -> None:
    with pytest.raises(RoundAborted):
        from_body(broken)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 200_000,
        b'{"kind":' * 100_000,
        b'{"kind":"per_tensor","dimension":-4,"parts":0,"provenance":"SEED"}',
        b'{"kind":"per_tensor","dimension":1000000000000000,"parts":0,"provenance":"SEED"}',
        b'{"kind":"public_subspace","basis":{"dtype":"float32","shape":[0,36893488147419103232]},"provenance":"SEED"}',
        b'{"kind":"random_projection","dimension":4,"size":2,"seed":0,"scale":{"dtype":"float32","shape":[]}}',
        b'{"kind":"top_k","choice":"public","dimension":3,"support":{"dtype":[],"shape":[0]}}',
        b'{"kind":"autoencoder","network":"mlp","dimension":9000000000000000000,"block":1,"block_size":1,"pictures":0,'
        b'"provenance":"SEED"}',
    ],
)
def test_a_header_of_any_form_makes_a_codec_or_is_refused(header: bytes) -> None:
    """Whoever takes a codec knows two ways in which it is none; another would be a crash, and count as one."""
    pools: dict[str, Any] = {name: np.zeros(0, dtype) for dtype, name in POOLS.items()}
    said = re.search(rb'"dimension":(-?[0-9]+)', header)
    with pytest.raises(RoundAborted):
        unpack({"codec": header, **pools}, int(said[1]) if said else 8)


def test_a_codec_for_another_number_of_values_is_not_made() -> None:
    """A header of a hundred bytes would take two gigabytes before anybody asked what it is for."""
    pools: dict[str, Any] = {name: np.zeros(0, dtype) for dtype, name in POOLS.items()}
    header = b'{"kind":"per_tensor","dimension":2147483647,"parts":0,"provenance":"SEED"}'
    tracemalloc.start()
    with pytest.raises(RoundAborted, match="another number of values"):
        unpack({"codec": header, **pools}, 8)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_error_feedback_returns_what_was_lost() -> None:
    codec, memory = RandomProjection(200, 25, 3), ErrorFeedback(200)
    update = normal(0, 200)
    received = np.zeros(200)
    for number in range(200):
        received += codec.decode(codec.encode(memory.corrected(update, codec, number)[None])[0])
    # One fixed projection never sees its kernel; what it sees arrives whole.
    seen = codec.decode(codec.encode(update[None])[0])
    np.testing.assert_allclose(received / 200, seen, atol=1e-4)
    received, memory = np.zeros(200), ErrorFeedback(200)
    for number in range(200):
        codec = RandomProjection(200, 25, number)
        received += codec.decode(codec.encode(memory.corrected(update, codec, number)[None])[0])
    assert np.linalg.norm(received / 200 - update) < 0.1 * np.linalg.norm(update)


def test_error_feedback_counts_a_repeated_round_once_and_survives_a_restart() -> None:
    codec, update = RandomProjection(50, 10, 1), normal(0, 50)
    memory = ErrorFeedback(50)
    memory.corrected(update, codec, 0)
    first = memory.corrected(2 * update, codec, 1)
    assert np.array_equal(memory.corrected(2 * update, codec, 1), first)
    restored = ErrorFeedback.from_bytes(memory.to_bytes())
    assert np.array_equal(restored.corrected(2 * update, codec, 1), first)
    assert np.array_equal(restored.corrected(update, codec, 2), memory.corrected(update, codec, 2))
    for broken in (b"", memory.to_bytes()[:-1], b"x" * 40):
        with pytest.raises(PrivetError, match="no error-feedback memory"):
            ErrorFeedback.from_bytes(broken)


def test_error_feedback_forgets_what_is_not_finite() -> None:
    codec, memory = RandomProjection(50, 10, 1), ErrorFeedback(50)
    memory.corrected(np.full(50, np.nan, np.float32), codec, 0)
    assert np.array_equal(memory.corrected(np.ones(50, np.float32), codec, 1), np.ones(50, np.float32))


def test_error_feedback_is_refused_for_stretched_decoders() -> None:
    check_error_feedback(RandomProjection(50, 10, 1))
    with pytest.raises(PrivetError, match="stretch"):
        check_error_feedback(RandomProjection(50, 10, 1, "unbiased"))
