"""Which layers of which model family carry adapters when a configuration names none.

The choice is that of Hu et al. (arXiv 2106.09685, section 4.2), the query and value projections; families
that compute them in one matrix get that matrix.
"""

from __future__ import annotations

from collections.abc import Iterable

from privet.errors import PrivetError

_SEPARATE = ("q_proj", "v_proj")
_BY_FAMILY: dict[str, tuple[str, ...]] = {
    "gpt2": ("c_attn",),  # a Conv1D: its weight is transposed
    "gpt_bigcode": ("c_attn",),
    "gpt_neox": ("query_key_value",),
    "bloom": ("query_key_value",),
    "falcon": ("query_key_value",),
    "phi3": ("qkv_proj",),
    "mpt": ("Wqkv",),
    "dbrx": ("Wqkv",),
}


def default_target_modules(model_type: str, modules: Iterable[str]) -> tuple[str, ...]:
    """Names of the layers that carry adapters, as PEFT's ``target_modules`` takes them.

    Args:
        model_type: The model's ``config.model_type``.
        modules: Names of the model's modules, as ``named_modules`` gives them.

    Raises:
        PrivetError: if the family is unknown and has no layers with familiar names.
    """
    last = {name.rpartition(".")[2] for name in modules}
    known = _BY_FAMILY.get(model_type, _SEPARATE)
    for names in (known, _SEPARATE, *dict.fromkeys(_BY_FAMILY.values())):
        if last.issuperset(names):
            return names
    raise PrivetError(
        f"no target modules are known for models of type '{model_type}'",
        field="lora.target_modules",
        allowed="names of its layers: " + ", ".join(sorted(name for name in last if name)[:30]),
        hint="name the query and value projections of its attention",
    )
