"""Losses and gradients of single records, against plain transformers and one backward pass a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.tiny_models import (
    FAMILIES,
    Case,
    gradients_by_id,
    make_cases,
    make_model,
    random_flat,
    relative,
    spec,
)
from torch import nn
from torch.nn import functional

from privet.decoder import Decoder
from privet.errors import PrivetError
from privet.lora_layers import GradientSink, LoraLinear
from privet.prefix_cache import PrefixCache
from privet.sequences import MicroBatch, Shape, TokenSequence, groups_of_one_shape, micro_batches
from privet.train import Backbone


def oracle(model: Any, case: Case) -> tuple[float, NDArray[np.float64]]:
    """Loss and gradient of one record by torch's own autograd on a forward pass of plain operations."""
    leaves: list[torch.Tensor] = []
    patched = [module for module in model.modules() if isinstance(module, LoraLinear)]
    try:
        for module in patched:
            a = module.a.clone().requires_grad_(module.a_start is not None)
            b = module.b.clone().requires_grad_(True)
            leaves += [a, b] if module.a_start is not None else [b]

            def forward(x: torch.Tensor, m: Any = module, a: Any = a, b: Any = b) -> torch.Tensor:
                out: torch.Tensor = m.base(x) + (m.scale * (x @ a.T @ b.T)).to(x.dtype)
                return out

            module.forward = forward  # type: ignore[method-assign] # taken off again below
        ids = torch.from_numpy(case.input_ids.astype(np.int64))[None]
        logits = model(input_ids=ids).logits[0, :-1].float()
        mask = torch.from_numpy(case.supervised[:-1])
        loss = functional.cross_entropy(logits[mask], ids[0, 1:][mask])
        grads = torch.autograd.grad(loss, leaves)
    finally:
        for module in patched:
            del module.forward
    return loss.item(), np.concatenate([g.numpy().astype(np.float64).ravel() for g in grads])


@pytest.mark.parametrize("factors", ["both", "freeze_a"])
@pytest.mark.parametrize("family", FAMILIES)
def test_per_unit_gradients_equal_one_backward_pass_a_record(family: str, factors: str) -> None:
    model = make_model(family)
    backbone = Backbone(model, spec(factors))
    backbone.set_flat(random_flat(backbone))
    cases = make_cases([9, 5, 17, 12, 5, 3])
    rows = gradients_by_id(backbone, cases, 4)
    for case, loss in zip(cases, backbone.losses(cases, 4), strict=True):
        expected_loss, expected = oracle(model, case)
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert relative(rows[case.id], expected) < 2e-5


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gradients_do_not_depend_on_micro_batches_and_average_to_the_mean_gradient(family: str) -> None:
    backbone = Backbone(make_model(family), spec(targets=None), max_tokens=40)
    backbone.set_flat(random_flat(backbone))
    cases = make_cases([9, 5, 17, 12, 30, 5, 3, 8])
    one, three, all_at_once = (gradients_by_id(backbone, cases, size) for size in (1, 3, 100))
    for case in cases:
        assert relative(three[case.id], one[case.id]) < 2e-5
        assert relative(all_at_once[case.id], one[case.id]) < 2e-5
    mean, loss = backbone.mean_gradient(cases, 3)
    assert relative(mean, np.mean(list(one.values()), axis=0)) < 2e-5
    assert loss == pytest.approx(float(backbone.losses(cases).mean()), rel=1e-5)


@pytest.mark.parametrize("in_mlp", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_alone_are_learned_as_if_all_positions_were_computed(family: str, in_mlp: bool) -> None:
    # Few supervised positions make the last layer's MLP compute at those alone, unless it has an adapter itself.
    targets = (("c_fc", "c_attn") if family == "gpt2" else ("gate_proj", "v_proj")) if in_mlp else None
    model = make_model(family)
    backbone = Backbone(model, spec(targets=targets))
    backbone.set_flat(random_flat(backbone))
    cases = make_cases([9, 17, 12, 8], answer=2)
    rows = gradients_by_id(backbone, cases, 3)
    for case, loss in zip(cases, backbone.losses(cases, 4), strict=True):
        expected_loss, expected = oracle(model, case)
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert relative(rows[case.id], expected) < 2e-5


def test_training_among_answers_ignores_all_other_words() -> None:
    model = make_model()
    answers = (9, 4, 30)
    backbone = Backbone(model, spec(), answers=answers)
    backbone.set_flat(random_flat(backbone))
    cases = make_cases([9, 12], answer=1)
    for case, answer in zip(cases, (30, 4), strict=True):
        case.input_ids[-1] = answer
    weight = model.lm_head.weight.data.clone()
    rows = gradients_by_id(backbone, cases, 2)
    loss = backbone.mean_gradient(cases)[1]
    # The same from the whole vocabulary, with every other word made impossible.
    with torch.no_grad():
        logits = torch.stack(
            [model(input_ids=torch.tensor([c.input_ids.tolist()])).logits[0, -2] for c in cases]
        )
    expected = functional.cross_entropy(logits[:, sorted(answers)], torch.tensor([2, 0])).item()
    assert loss == pytest.approx(expected, rel=1e-5)
    other = [word for word in range(weight.shape[0]) if word not in answers]
    model.lm_head.weight.data[other] = 123.0
    assert {name: row.tobytes() for name, row in gradients_by_id(backbone, cases, 2).items()} == {
        name: row.tobytes() for name, row in rows.items()
    }
    cases[0].input_ids[-1] = 5
    with pytest.raises(PrivetError, match="none of the verbalisers"):
        gradients_by_id(backbone, cases, 2)


def test_bfloat16_base_gives_the_float32_gradients_to_its_precision() -> None:
    cases = make_cases([9, 17, 12])
    exact = Backbone(make_model(), spec())
    rounded = Backbone(make_model(dtype=torch.bfloat16), spec())
    flat = random_flat(exact)
    for backbone in (exact, rounded):
        backbone.set_flat(flat)
    expected = gradients_by_id(exact, cases, 3)
    for name, row in gradients_by_id(rounded, cases, 3).items():
        assert relative(row, expected[name]) < 0.1


def test_a_record_without_supervised_tokens_has_loss_and_gradient_zero() -> None:
    backbone = Backbone(make_model(), spec())
    first, second = make_cases([9, 7])
    silent = Case("silent", second.input_ids, np.zeros(7, np.bool_))
    rows = gradients_by_id(backbone, [silent, first], 8)
    assert not rows["silent"].any()
    assert rows[first.id].any()
    assert backbone.losses([silent, first])[0] == 0
    assert list(backbone.per_unit_gradients([], 8)) == []
    assert backbone.mean_gradient([])[1] == 0
    assert backbone.losses([]).shape == (0,)


def test_a_mask_that_supervises_the_last_token_is_refused() -> None:
    ids = np.array([3, 4, 5], np.int32)
    with pytest.raises(ValueError, match="no next token"):
        TokenSequence.of(Case("x", ids, np.array([False, False, True])))
    with pytest.raises(ValueError, match="mask entry"):
        TokenSequence.of(Case("x", ids, np.array([False, True])))


@pytest.mark.parametrize("cached", [False, True])
def test_trap_08_a_non_finite_record_spoils_its_own_gradient_only(cached: bool) -> None:
    model = make_model(seed=1)
    model.get_input_embeddings().weight.data[5] = float("inf")
    # The head is not tied in this model, so the token is harmless where it is only a possible answer.
    assert not model.config.tie_word_embeddings
    backbone = Backbone(model, spec(layers=1), cache=PrefixCache() if cached else None)
    cases = make_cases([9, 12, 12, 7])
    for case in cases:
        case.input_ids[case.input_ids == 5] = 6
    clean = gradients_by_id(backbone, cases, 4)
    cases[1].input_ids[0] = 5
    spoilt = gradients_by_id(backbone, cases, 4)
    assert np.isnan(spoilt["r1"]).any()
    for name in ("r0", "r2", "r3"):
        np.testing.assert_array_equal(spoilt[name], clean[name])


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_record_s_gradient_has_the_same_bits_in_any_company(dtype: torch.dtype, cached: bool) -> None:
    def backbone() -> Backbone:
        cache = PrefixCache() if cached else None
        made = Backbone(make_model(dtype=dtype), spec(layers=2), cache=cache, deterministic_units=True)
        made.set_flat(random_flat(made))
        return made

    cases = make_cases([33, 9, 5, 17, 12, 5, 3, 30, 31, 32, 8, 9, 10, 11, 12, 13])
    together = gradients_by_id(backbone(), cases, 8)
    other = backbone()
    for part in ([cases[0]], cases[1:4], cases[:1:-1], cases[::2]):
        for name, row in gradients_by_id(other, part, 8).items():
            assert row.tobytes() == together[name].tobytes()


@pytest.mark.parametrize("answer", [None, 1, 3])
def test_shapes_with_dummies_give_the_gradients_of_free_micro_batches(answer: int | None) -> None:
    cases = make_cases([33, 9, 5, 17, 12, 5, 30], answer=answer)
    free, fixed = (Backbone(make_model(), spec(), deterministic_units=fixed) for fixed in (False, True))
    for backbone in (free, fixed):
        backbone.set_flat(random_flat(backbone))
    expected = gradients_by_id(free, cases, 4)
    for name, row in gradients_by_id(fixed, cases, 4).items():
        assert relative(row, expected[name]) < 2e-5
    (mean, loss), (other_mean, other_loss) = (b.mean_gradient(cases, 4) for b in (free, fixed))
    assert relative(mean, other_mean) < 2e-5
    assert loss == pytest.approx(other_loss, rel=1e-6)


def test_a_shape_that_keeps_no_bits_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    original = Backbone._backward

    def noted(self: Backbone, batch: MicroBatch, *args: Any) -> Any:
        passes.append(len(batch.ids))
        return original(self, batch, *args)

    monkeypatch.setattr("privet.train.keeps_bits", lambda run, rows: False)
    monkeypatch.setattr(Backbone, "_backward", noted)
    backbone = Backbone(make_model(), spec(), deterministic_units=True)
    gradients_by_id(backbone, make_cases([9, 9, 12, 20]), 8)
    assert passes == [1, 1, 1, 1]


@pytest.mark.parametrize("cache", [False, True])
def test_records_of_a_model_with_experts_pass_one_by_one(
    cache: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many tokens an expert gets follows from what the others hold; made-up rows may not show it."""
    passes: list[int] = []
    run, backward = Decoder.prefix, Backbone._backward

    def noted_run(self: Decoder, ids: torch.Tensor) -> torch.Tensor:
        passes.append(len(ids))
        return run(self, ids)

    def noted_backward(self: Backbone, batch: MicroBatch, *args: Any) -> Any:
        passes.append(len(batch.ids))
        return backward(self, batch, *args)

    monkeypatch.setattr("privet.train.keeps_bits", lambda run, rows: True)
    monkeypatch.setattr("privet.frozen_prefix.keeps_bits", lambda run, rows: True)
    cases = make_cases([17] * 12, answer=2)
    model = make_model("mixtral")
    monkeypatch.setattr(Decoder, "prefix", noted_run)
    monkeypatch.setattr(Backbone, "_backward", noted_backward)

    def rows(asked: Sequence[Case]) -> dict[str, bytes]:
        backbone = Backbone(
            model, spec(layers=1), deterministic_units=True, cache=PrefixCache() if cache else None
        )
        backbone.set_flat(random_flat(backbone))
        passes.clear()
        found = {name: row.tobytes() for name, row in gradients_by_id(backbone, asked, 8).items()}
        backbone.detach()
        return found

    together = rows(cases)
    assert passes == [1] * (24 if cache else 12)
    for case in cases:
        assert rows([case])[case.id] == together[case.id]


@pytest.mark.parametrize("cache", [False, True])
def test_the_longest_records_leave_a_model_with_dynamic_positions_as_it_was(cache: bool) -> None:
    """It grows with what it reads beyond its own length, which `material.check_length` refuses."""
    longest, *others = make_cases([64, 55, 64], answer=1)  # a shorter shape would make it shrink again
    fresh, used = (
        Backbone(
            make_model("dynamic"),
            spec(layers=1),
            deterministic_units=True,
            cache=PrefixCache() if cache else None,
        )
        for _ in range(2)
    )
    for backbone in (fresh, used):
        backbone.set_flat(random_flat(backbone))
    gradients_by_id(used, [longest], 4)
    expected = gradients_by_id(fresh, others, 4)
    for name, row in gradients_by_id(used, others, 4).items():
        assert row.tobytes() == expected[name].tobytes()


def test_trying_a_shape_leaves_the_adapter_as_it_was() -> None:
    backbone = Backbone(make_model(), spec(), deterministic_units=True)
    flat = random_flat(backbone)
    backbone.set_flat(flat)
    gradients_by_id(backbone, make_cases([9, 12]), 8)
    assert np.array_equal(backbone._adapters.flat.numpy(), flat)


@given(
    st.lists(st.tuples(st.integers(1, 600), st.integers(1, 600)), min_size=1, max_size=40), st.integers(1, 40)
)
def test_a_shape_follows_from_the_record_alone_and_holds_it(sizes: list[tuple[int, int]], most: int) -> None:
    sequences = [
        TokenSequence(str(i), np.ones(n, np.int64), np.arange(n - min(n, k), n), np.ones(min(n, k), np.int64))
        for i, (n, k) in enumerate(sizes)
    ]
    groups = list(groups_of_one_shape(sequences, lambda s: Shape.of(s, most)))
    assert sorted(s.id for _, group in groups for s in group) == sorted(s.id for s in sequences)
    for shape, group in groups:
        assert all(Shape.of(s, most) == shape for s in group)
        assert 1 <= len(group) <= shape.rows <= most
        assert shape.rows == 1 or shape.rows * shape.width <= 512
        batch = MicroBatch.of(group, shape)
        assert batch.ids.shape == (shape.rows, shape.width)
        assert len(batch.where) == len(set(batch.where.tolist())) == shape.rows * shape.targets
        assert np.array_equal(np.bincount(batch.owner), np.full(shape.rows, shape.targets))
        assert np.array_equal(batch.owner, batch.where // shape.width)
        real = batch.weights > 0
        assert np.array_equal(batch.labels[real], np.concatenate([s.labels for s in group]))
        assert real.sum() == sum(len(s.positions) for s in group)


def test_the_same_records_give_the_same_bits_whatever_their_order_and_the_cache_s_past() -> None:
    def rows(past: Sequence[Sequence[Case]], asked: Sequence[Case]) -> dict[str, bytes]:
        model = make_model(dtype=torch.bfloat16)
        backbone = Backbone(model, spec(layers=1), cache=PrefixCache())
        backbone.set_flat(random_flat(backbone))
        for earlier in past:
            gradients_by_id(backbone, earlier, 4)
        return {name: row.tobytes() for name, row in gradients_by_id(backbone, asked, 4).items()}

    cases = make_cases([33, 9, 5, 17, 12, 5, 3, 30, 31, 32])
    fresh = rows([], cases)
    assert rows([cases[3:5], cases[:1]], cases[::-1]) == fresh


def test_one_base_serves_many_silos_by_swapping_vectors() -> None:
    cases = make_cases([9, 12])
    shared = Backbone(make_model(), spec())
    flats = [random_flat(shared, seed) for seed in (1, 2)]
    found = []
    for flat in (*flats, flats[0]):
        shared.set_flat(flat)
        found.append(gradients_by_id(shared, cases, 2)["r0"])
    assert found[0].tobytes() == found[2].tobytes()
    assert relative(found[1], found[0]) > 0.01
    with pytest.raises(ValueError, match="shape"):
        shared.set_flat(flats[0][:-1])


def test_the_initial_adapter_changes_nothing_and_detach_gives_the_model_back() -> None:
    model = make_model("gpt2")
    ids = torch.arange(3, 23).view(2, 10)
    with torch.no_grad():
        before = model(input_ids=ids).logits
        backbone = Backbone(model, spec())
        assert torch.equal(model(input_ids=ids).logits, before)
        with pytest.raises(PrivetError, match="adapters already"):
            Backbone(model, spec())
        backbone.set_flat(random_flat(backbone))
        assert not torch.equal(model(input_ids=ids).logits, before)
        backbone.detach()
        assert torch.equal(model(input_ids=ids).logits, before)
    Backbone(model, spec("freeze_a", 1))


def test_scores_of_choices_are_log_likelihoods_and_share_prompts() -> None:
    model = make_model()
    backbone = Backbone(model, spec())
    backbone.set_flat(random_flat(backbone))
    rng = np.random.default_rng(0)
    questions = []
    for prompt_length, answers in ((8, ([5], [6], [7])), (5, ([5], [8, 9])), (11, ([4, 4, 4], [4]))):
        prompt = rng.integers(3, 90, prompt_length)
        made = []
        for answer in answers:
            ids = np.concatenate([prompt, answer]).astype(np.int32)
            mask = np.zeros(len(ids), np.bool_)
            mask[prompt_length - 1 : -1] = True
            made.append(Case("q", ids, mask))
        questions.append(made)
    seen: list[int] = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    scores = backbone.choice_scores(questions, 2)
    hook.remove()
    assert sum(seen) == 1 + 2 + 2  # one-token answers are read off one pass of the prompt
    assert [len(found) for found in scores] == [3, 2, 2]
    for made, found in zip(questions, scores, strict=True):
        for case, score in zip(made, found, strict=True):
            loss, _ = oracle(model, case)
            assert score == pytest.approx(-loss * case.supervised.sum(), rel=1e-5)


def test_a_layer_that_mixes_records_is_refused() -> None:
    layer = LoraLinear(
        nn.Linear(4, 4),
        a=torch.ones(1, 4),
        b=torch.ones(4, 1),
        scale=1.0,
        a_start=None,
        b_start=0,
        sink=GradientSink(),
    )
    with pytest.raises(PrivetError, match="told apart"):
        layer(torch.ones(6, 4))


@given(st.lists(st.integers(1, 30), max_size=30), st.integers(1, 7), st.integers(1, 60), st.randoms())
def test_micro_batches_hold_everything_once_within_bounds(
    lengths: list[int], records: int, max_tokens: int, random: Any
) -> None:
    sequences = [
        TokenSequence(f"s{i}", np.ones(n, np.int64), np.array([n - 1]), np.array([1]))
        for i, n in enumerate(lengths)
    ]
    groups = list(micro_batches(sequences, records, max_tokens))
    assert sorted(s.id for group in groups for s in group) == sorted(s.id for s in sequences)
    for group in groups:
        assert len(group) <= records
        assert len(group) == 1 or len(group) * max(map(len, group)) <= max_tokens
    random.shuffle(sequences)
    again = list(micro_batches(sequences, records, max_tokens))
    assert [[s.id for s in group] for group in again] == [[s.id for s in group] for group in groups]
