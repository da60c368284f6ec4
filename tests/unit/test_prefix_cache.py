"""The cached lower half of the model: same gradients, right keys, bounded bytes, bits that don't depend on company."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_models import FAMILIES, gradients_by_id, make_cases, make_model, random_flat, relative, spec

from privet.decoder import Decoder
from privet.errors import PrivetError
from privet.frozen_prefix import FrozenPrefix, model_fingerprint
from privet.prefix_cache import PrefixCache
from privet.sequences import TokenSequence
from privet.train import Backbone


def entry(number: int, size: int = 100) -> tuple[bytes, Any]:
    return bytes([number]) * 32, np.random.default_rng(number).integers(0, 256, size, np.uint8)


def sequences(lengths: list[int], seed: int = 0) -> list[TokenSequence]:
    return [TokenSequence.of(case) for case in make_cases(lengths, answer=1, seed=seed)]


def prefix(model: Any, layer: int = 2, **options: Any) -> FrozenPrefix:
    return FrozenPrefix(Decoder(model, layer), options.pop("cache", PrefixCache()), **options)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_and_uncached_gradients_agree(family: str, layers: int) -> None:
    cases = make_cases([9, 5, 33, 17, 12, 5, 3])
    plain = Backbone(make_model(family), spec(layers=layers))
    cached = Backbone(make_model(family), spec(layers=layers), cache=PrefixCache())
    assert plain.uncached_reason == "no cache was given"
    assert cached.uncached_reason is None
    flat = random_flat(plain)
    for backbone in (plain, cached):
        backbone.set_flat(flat)
    expected = gradients_by_id(plain, cases, 3)
    for _ in range(2):
        for name, row in gradients_by_id(cached, cases, 3).items():
            assert relative(row, expected[name]) < 2e-5
    np.testing.assert_allclose(cached.losses(cases), plain.losses(cases), rtol=2e-5)


def test_the_prefix_runs_once_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    original = Decoder.prefix

    def counted(self: Decoder, ids: torch.Tensor) -> torch.Tensor:
        runs.append(len(ids))
        return original(self, ids)

    backbone = Backbone(make_model(), spec(layers=1), cache=PrefixCache())
    monkeypatch.setattr(Decoder, "prefix", counted)
    cases = make_cases([9, 12, 17, 40])
    gradients_by_id(backbone, cases, 2)
    assert runs
    runs.clear()
    backbone.set_flat(random_flat(backbone))
    gradients_by_id(backbone, cases[::-1], 3)
    backbone.losses(cases)
    assert not runs


def test_a_cache_too_small_for_anything_changes_no_bit() -> None:
    cases = make_cases([9, 12, 17, 40])
    rows = []
    for cache in (PrefixCache(), PrefixCache(memory_bytes=0), PrefixCache(memory_bytes=4000)):
        backbone = Backbone(make_model(dtype=torch.bfloat16), spec(layers=1), cache=cache)
        backbone.set_flat(random_flat(backbone))
        gradients_by_id(backbone, cases[:2], 2)
        rows.append({name: row.tobytes() for name, row in gradients_by_id(backbone, cases, 2).items()})
        assert cache.bytes_in_memory <= cache.memory_bytes
    assert rows[0] == rows[1] == rows[2]


def test_adapters_at_the_bottom_leave_nothing_to_cache() -> None:
    backbone = Backbone(make_model(), spec(layers=(0, 2)), cache=PrefixCache())
    assert backbone.uncached_reason == "the lowest layer has an adapter"
    assert gradients_by_id(backbone, make_cases([5, 9]), 2)


def test_a_model_with_shortcuts_between_layers_runs_whole_and_says_why() -> None:
    model = make_model()
    kept: list[torch.Tensor] = []
    model.model.layers[0].register_forward_pre_hook(lambda _module, args: kept.append(args[0]))
    model.model.layers[2].register_forward_pre_hook(lambda _module, args: (args[0] + kept[-1], *args[1:]))
    backbone = Backbone(model, spec(layers=1), cache=PrefixCache())
    assert backbone.uncached_reason is not None
    assert "LlamaForCausalLM" in backbone.uncached_reason
    ids = torch.tensor([make_cases([9])[0].input_ids.tolist()])
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(model(input_ids=ids).logits[0, :-1], ids[0, 1:])
    everywhere = make_cases([9])
    everywhere[0].supervised[:-1] = True
    assert backbone.losses(everywhere)[0] == pytest.approx(expected.item(), rel=1e-5)


def test_a_model_whose_logits_are_not_linear_is_refused() -> None:
    model = make_model()
    model.register_forward_hook(lambda _module, _args, out: out.__class__(logits=out.logits * 3))
    with pytest.raises(PrivetError, match="linear map"):
        Backbone(model, spec(layers=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_have_the_same_bits_in_any_company(dtype: torch.dtype) -> None:
    model = make_model(dtype=dtype)
    asked = sequences([40, 33, 9, 16, 17, 12, 5, 3, 30, 31, 32, 2])
    together = prefix(model).states(asked)
    for seed in range(3):
        strangers = sequences([40, 20, 31, 8, 8, 8, 8], seed + 1)
        found = prefix(model).states([*strangers, *asked[::-1]])[len(strangers) :][::-1]
        assert [data.tobytes() for data in found] == [data.tobytes() for data in together]
    one_by_one = [prefix(model).states([sequence])[0] for sequence in asked]
    assert [data.tobytes() for data in one_by_one] == [data.tobytes() for data in together]


def shapes_of_passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shape of every pass through the frozen layers from now on."""
    shapes: list[tuple[int, ...]] = []
    original = Decoder.prefix

    def noted(self: Decoder, ids: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(ids.shape))
        return original(self, ids)

    monkeypatch.setattr(Decoder, "prefix", noted)
    return shapes


def test_warming_fills_groups_up_with_spare_records_and_changes_no_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, asked, spare = make_model(), sequences([9, 12, 30]), sequences([40, 10, *[7] * 40, *[20] * 3], 1)
    warmed = prefix(model)
    shapes = shapes_of_passes(monkeypatch)
    monkeypatch.setattr("privet.frozen_prefix.keeps_bits", lambda run, rows: True)
    warmed.warm(asked, iter(spare))
    # 16 places of 16 tokens of which 2 are asked for, 8 of 32 tokens with 1: the spare ones get the rest, in order.
    assert sorted(shapes) == [(8, 32), (16, 16)]
    kept = [s for s in spare if warmed.key(s) in warmed._cache]
    assert kept == [*spare[1:15], *spare[-3:]]
    shapes.clear()
    warmed.warm(asked, iter(spare))
    found = warmed.states([*asked, *kept])
    assert not shapes
    assert [d.tobytes() for d in found] == [d.tobytes() for d in prefix(model).states([*asked, *kept])]


def test_warming_stops_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone(make_model(), spec(layers=1), cache=PrefixCache(memory_bytes=1000))
    monkeypatch.setattr(Decoder, "prefix", lambda *_: pytest.fail("was computed"))
    backbone.warm(make_cases([9, 12]))


def test_where_rows_do_not_keep_their_bits_every_record_passes_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = Backbone(make_model(), spec(layers=1), cache=PrefixCache(), deterministic_units=True)
    shapes = shapes_of_passes(monkeypatch)
    monkeypatch.setattr("privet.frozen_prefix.keeps_bits", lambda run, rows: False)
    gradients_by_id(backbone, make_cases([9, 22, 12], answer=1), 8)
    assert sorted(shapes) == [(1, 16), (1, 16), (1, 32)]


def test_keys_tell_apart_all_that_the_states_depend_on() -> None:
    first, second = sequences([9, 9])
    model = make_model()
    keys = [
        prefix(model).key(first),
        prefix(model).key(second),
        prefix(model, 1).key(first),
        prefix(model, tokenizer="another").key(first),
        prefix(make_model(seed=1)).key(first),
        prefix(make_model(dtype=torch.bfloat16)).key(first),
        prefix(make_model("qwen3")).key(first),
    ]
    assert len(set(keys)) == len(keys)
    longer = TokenSequence("x", np.append(first.inputs, 3), first.positions, first.labels)
    assert prefix(model).key(longer) not in keys
    renamed = TokenSequence("x", first.inputs, first.positions - 1, first.labels)
    assert prefix(model).key(renamed) == keys[0]


def test_the_fingerprint_ignores_adapters_and_sees_single_weights() -> None:
    model = make_model()
    before = model_fingerprint(model)
    Backbone(model, spec())
    assert model_fingerprint(model) == before
    model.lm_head.weight.data[3, 4] += 1e-3
    assert model_fingerprint(model) != before


def test_memory_is_bounded_and_nothing_is_evicted_for_a_newcomer() -> None:
    cache = PrefixCache(memory_bytes=250)
    for number in range(4):
        cache.put(*entry(number))
    assert cache.bytes_in_memory == 200
    assert [entry(number)[0] in cache for number in range(4)] == [True, True, False, False]
    for number in range(2):
        found = cache.get(entry(number)[0])
        assert found is not None
        np.testing.assert_array_equal(found, entry(number)[1])
        assert not found.flags.writeable
    assert cache.get(entry(3)[0]) is None


def test_a_folder_holds_all_entries_in_private_files_for_other_processes(tmp_path: Path) -> None:
    folder = tmp_path / "states"
    cache = PrefixCache(memory_bytes=150, directory=folder, disk_bytes=350)
    for number in range(5):
        cache.put(*entry(number))
        cache.put(*entry(number))
    assert (cache.bytes_in_memory, cache.bytes_on_disk) == (100, 300)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    for number in range(3):
        np.testing.assert_array_equal(cache.get(entry(number)[0]), entry(number)[1])
    another = PrefixCache(memory_bytes=0, directory=folder, disk_bytes=1000)
    assert [entry(number)[0] in another for number in range(5)] == [True, True, True, False, False]
    another.put(*entry(7, 33))
    for number, size in ((0, 100), (1, 100), (2, 100), (7, 33)):
        np.testing.assert_array_equal(another.get(entry(number)[0]), entry(number, size)[1])


def test_damaged_entries_count_as_missing_and_can_be_written_again(tmp_path: Path) -> None:
    cache = PrefixCache(memory_bytes=0, directory=tmp_path)
    for number in range(3):
        cache.put(*entry(number))
    (data,), (index,) = tmp_path.glob("*.data"), tmp_path.glob("*.index")
    with data.open("r+b") as file:
        file.seek(110)
        file.write(b"\0\0\0\0\0\0\0\0")
    index.write_bytes(index.read_bytes()[:-5])
    again = PrefixCache(memory_bytes=0, directory=tmp_path)
    assert again.get(entry(0)[0]) is not None
    assert again.get(entry(1)[0]) is None
    assert again.get(entry(2)[0]) is None
    again.put(*entry(1))
    np.testing.assert_array_equal(again.get(entry(1)[0]), entry(1)[1])


def test_a_full_disk_costs_the_cache_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> tuple[int, int]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("privet.prefix_cache._Segment.append", full)
    cache = PrefixCache(memory_bytes=0, directory=tmp_path)
    cache.put(*entry(0))
    cache.put(*entry(1))
    assert cache.get(entry(0)[0]) is None


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(PrivetError, match="folder for cached hidden states"):
        PrefixCache(directory=tmp_path / "file" / "states")


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 60)), max_size=20), st.integers(0, 200))
def test_property_the_store_returns_what_was_put_first_or_nothing(
    puts: list[tuple[int, int]], limit: int
) -> None:
    cache = PrefixCache(memory_bytes=limit)
    first: dict[int, int] = {}
    for number, size in puts:
        missing = entry(number)[0] not in cache
        cache.put(*entry(number, size))
        if missing and entry(number)[0] in cache:
            first[number] = size
    assert cache.bytes_in_memory == sum(first.values()) <= limit
    for number, size in first.items():
        np.testing.assert_array_equal(cache.get(entry(number)[0]), entry(number, size)[1])
