"""``privet export``: a folder that plain ``peft`` loads, with a model card that carries the privacy statement.

The adapter of a run is checked before it is handed on: its tensors have to be there, finite, and of the shapes that its
configuration says.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from privet.errors import PrivetError
from privet.model_card import model_card
from privet.model_config import EMBEDDED_MODEL
from privet.report.record import RunRecord

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "adapter_config.json", "adapter_model.safetensors", "README.md"
AUDIT_FILE = "audit.json"
PEFT_KEYS = frozenset(
    {
        *("peft_type", "task_type", "base_model_name_or_path", "inference_mode", "target_modules"),
        *("layers_to_transform", "r", "lora_alpha", "lora_dropout", "bias", "fan_in_fan_out"),
    }
)
"""What runs write; whatever else stands in an adapter's configuration is not handed on."""
# The run's configuration is left out: it may name folders of the machine that the run was made on.
EVIDENCE = ("privacy.json", "dp_event.json", "metrics.jsonl", AUDIT_FILE)
HUB_NAMES = {EMBEDDED_MODEL: "HuggingFaceTB/SmolLM2-135M-Instruct"}


def export(
    record: RunRecord, out: Path, *, base: str | None = None, force: bool = False, audit: bool = True
) -> list[Path]:
    """Write the adapter, its model card, and what the card's statement rests on.

    Args:
        record: A run that has ended, or was stopped by its budget.
        out: A folder, new or empty.
        base: What ``peft`` shall look for as the base model: a hub name or a folder. By default what the run trained
            on, the embedded model under its hub name.
        force: Replace the files of an earlier export.
        audit: Hand on what ``privet audit`` found, whose figures are exact functions of training records.

    Returns:
        The files written, the weights first.

    Raises:
        PrivetError: if the run has no adapter yet, the adapter is damaged, or ``out`` is in use.
    """
    check_finished(record)
    if out.exists() and any(out.iterdir()) and not (force and (out / CONFIG_FILE).exists()):
        hint = "--force replaces an earlier export" if (out / CONFIG_FILE).exists() else "name another folder"
        raise PrivetError(
            "is not empty", field="--out", given=out, allowed="a new or empty folder", hint=hint
        )
    config = _peft_config(record)
    count = _check_weights(record, config)
    name = base or str(config["base_model_name_or_path"])
    config["base_model_name_or_path"] = name = HUB_NAMES.get(name, name)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(record.adapter / WEIGHTS_FILE, out / WEIGHTS_FILE)
    (out / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (out / CARD_FILE).write_text(
        model_card(record, base=name, parameters=count, audit=audit), encoding="utf-8"
    )
    if not audit:
        (out / AUDIT_FILE).unlink(missing_ok=True)
    evidence = [
        file for file in EVIDENCE if (record.folder / file).exists() and (audit or file != AUDIT_FILE)
    ]
    for file in evidence:
        shutil.copyfile(record.folder / file, out / file)
    return [out / file for file in (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, *evidence)]


def check_finished(record: RunRecord) -> None:
    """Refuse a run that has no adapter and statement yet.

    Raises:
        PrivetError: naming how far the run has come.
    """
    if record.privacy is None or record.so_far or not (record.adapter / WEIGHTS_FILE).is_file():
        raise PrivetError(
            "has no adapter yet",
            field=str(record.folder.path),
            given=record.state_text,
            hint="finish the run first",
        )


def _peft_config(record: RunRecord) -> dict[str, Any]:
    path = record.adapter / CONFIG_FILE
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = config["peft_type"] == "LORA" and isinstance(config["r"], int)
    except (OSError, ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise PrivetError(
            "is no LoRA configuration", field=str(path), hint="`privet run --resume` writes it again"
        )
    return {name: value for name, value in config.items() if name in PEFT_KEYS}


def _check_weights(record: RunRecord, config: dict[str, Any]) -> int:
    """Number of values in the adapter's tensors."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = record.adapter / WEIGHTS_FILE
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError):
        tensors = {}
    rank = config["r"]
    shapes = all(
        value.ndim == 2 and value.shape[0 if name.endswith("lora_A.weight") else 1] == rank
        for name, value in tensors.items()
    )
    pairs = {name.rsplit(".lora_", 1)[0] for name in tensors}
    whole = bool(tensors) and shapes and len(tensors) == 2 * len(pairs)
    if not whole or not all(np.isfinite(value).all() for value in tensors.values()):
        raise PrivetError(
            "holds no whole adapter", field=str(path), hint="`privet run --resume` writes it again"
        )
    return sum(int(value.size) for value in tensors.values())
