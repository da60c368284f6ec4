"""The commented YAML that ``privet init`` writes: one for each system, on the embedded data or on the user's own.

The comments above the keys are the descriptions in the schema, so they cannot go stale; only what a beginner should
decide first is written out, and every other key keeps its default.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping
from typing import Any

import yaml

from privet.config_fields import descriptions, kinds, sections
from privet.data_sketch import DataSketch
from privet.errors import PrivetError
from privet.model_config import EMBEDDED_MODEL
from privet.sealing.base import FEWEST_PARTIES

WIDTH = 100
PRIVATE_BY_RECORD = frozenset({"dp_lora", "hedge"})
PRIVATE_BY_CLIENT = frozenset({"dr_encoder"})
SEALING = {"hedge": "masked", "fedshield": "encrypted+masked", "dr_encoder": "masked"}
CODECS: dict[str, dict[str, Any]] = {
    "fedshield": {"kind": "prune", "start_round": 2, "start_rate": 0.2, "end_rate": 0.5},
    "dr_encoder": {"kind": "autoencoder", "network": "mlp", "ratio": 16.0, "allocation": "by_std"},
    "cg_fedllm": {"kind": "autoencoder", "network": "mlp", "ratio": 16.0},
}

_HEAD = """\
# A federated run with privet: {system}.
#
#   privet validate {name}    lists every mistake in this file
#   privet plan {name}        epsilon per observer, bytes, seconds and memory, before anything runs
#   privet run {name}         runs it; the folder it names holds the adapter and a report
#
# Keys that are absent keep their defaults; docs/config.md lists all of them.
"""
_PUBLIC = "A public constant, agreed on before the run: never the true number of records, which is private."
READ_OFF = (
    "columns, labels and, roughly, the number of records (`sampling_rate`, `expected_batch`) were read off these rows, "
    "and no epsilon covers that. Before others see this file, put what was agreed on in their place."
)
_NOTES = {
    "schedule.sampling_rate": _PUBLIC,
    "privacy.target_epsilon": "`privet plan` shows what it costs in noise.",
    "privacy.clip_norm": "A number that is many times the length of a gradient makes the noise as many times too "
    "large; `public` finds it on public records.",
    "data.split.public": "Whatever is declared public is protected by nothing.",
}
_OTHER_DATA = """\
# Your own data instead: `privet init --data 'sites/*.jsonl'` looks at them and writes this section.
# data:
#   kind: jsonl
#   path: sites/*.jsonl
#   template: {kind: prompt, prompt: "{question}\\n", completion: "{answer}"}
#   partition: {kind: file}
"""
_PUBLIC_FILES = """\
  # Files that are public anyway, if you have any: exact metrics on the first may leave a silo (with
  # test_public: true), and the second lets `privacy.clip_norm: public` find the clip norm for free.
  # test_path: public/test.jsonl
  # public_path: public/train.jsonl
"""


def systems() -> tuple[str, ...]:
    """Systems that a configuration may name."""
    return kinds("system")


def system_for(data: DataSketch | None) -> str:
    """The system for whoever names none: noise in shares under a seal, where there are silos enough for one."""
    return "dp_lora" if _too_few(data) else "hedge"


def remarks(system: str, data: DataSketch | None) -> dict[str, list[str]]:
    """What somebody should know of their own data before a run, by the section that it is about."""
    found: dict[str, list[str]] = {}
    if data is not None:
        found["data"] = [*data.warnings, READ_OFF]
    if not _too_few(data):
        return found
    why = f"A seal hides nothing among fewer than {FEWEST_PARTIES} silos, and these data make fewer"
    if system in SEALING:
        found["sealing"] = [
            f"{why}: `privet plan` refuses it. Take system dp_lora without a seal, or more silos."
        ]
    elif system == "dp_lora":
        found["system"] = [
            f"{why}: so each silo adds the whole noise by itself (dp_lora) and there is no section `sealing`. With "
            f"{FEWEST_PARTIES} silos or more, hedge needs less noise for the same epsilon."
        ]
    return found


def _too_few(data: DataSketch | None) -> bool:
    return data is not None and data.silos is not None and data.silos < FEWEST_PARTIES


def template(system: str, data: DataSketch | None = None, name: str = "run.yaml") -> str:
    """A configuration that ``privet validate`` accepts, with comments.

    Args:
        system: One of `systems`.
        data: What the user's own files look like; the embedded data without.
        name: The file's name, for the commands in its head.

    Raises:
        PrivetError: for an unknown system.
    """
    if system not in systems():
        raise PrivetError("unknown system", field="--system", given=system, allowed=", ".join(systems()))
    lines = [_HEAD.format(system=system, name=name)]
    about = {(section.path, section.kind): section.summary for section in sections()}
    texts, notes = descriptions(), remarks(system, data)
    for key, value in _content(system, data).items():
        if isinstance(value, dict):
            summary = about.get((key, value.get("kind"))) or about.get((key, None), "")
            lines += ["", *_comment(summary, 0)]
        else:
            lines += _comment(texts.get(key, ""), 0)
        for remark in notes.get(key, ()):
            lines += _comment(f"Note: {remark}", 0)
        lines += _emit(key, value, key, 0, texts)
        if key == "data":
            lines.append((_OTHER_DATA if data is None else _PUBLIC_FILES).rstrip())
    return "\n".join(lines) + "\n"


def _content(system: str, data: DataSketch | None) -> dict[str, Any]:
    content: dict[str, Any] = {"version": 1, "system": {"kind": system}}
    content["model"] = {"name": EMBEDDED_MODEL}
    content["data"] = _data(data) if data else {"kind": "sentiment", "max_length": 64}
    content["lora"] = {"rank": 8, "layers": {"top": 2}, "factors": "freeze_a"}
    content["schedule"] = _schedule(system, data)
    if system in PRIVATE_BY_RECORD | PRIVATE_BY_CLIENT:
        content["privacy"] = _privacy(system, data)
    if system in CODECS:
        content["codec"] = CODECS[system]
    if system in SEALING:
        content["sealing"] = {"kind": SEALING[system]}
    if data is None or data.template["kind"] == "classification":
        content["evaluation"] = {"metric": "choices"}
    else:
        content["evaluation"] = {"metric": "loss"}
    return content


def _data(data: DataSketch) -> dict[str, Any]:
    split: dict[str, Any] = {"test": 0.1, "public": 0.0}
    if data.group:
        split["group"] = data.group
    return {
        "kind": data.kind,
        "path": data.path,
        **({"delimiter": data.delimiter} if data.delimiter != "," else {}),
        "max_length": 128,
        "template": data.template,
        "partition": data.partition,
        "split": split,
        "test_public": False,
    }


def _schedule(system: str, data: DataSketch | None) -> dict[str, Any]:
    if system in PRIVATE_BY_RECORD:
        rate, batch = _batch(data.records if data else 14_000)
        if system == "hedge":
            # As in examples/hedge.yaml, where the study of the trade-off chose it
            server = {"kind": "adam", "learning_rate": 20.0, "momentum": 0.0, "decay": "linear"}
            return {"rounds": 40, "sampling_rate": rate, "expected_batch": batch, "server": server}
        server = {"kind": "adam", "learning_rate": 5.0}
        silos = (data.silos or data.files) if data else 4
        local = {"steps": 1, "learning_rate": 1.0}
        each = _power_of_two(batch / silos)
        return {"rounds": 40, "sampling_rate": rate, "expected_batch": each, "local": local, "server": server}
    return {
        "rounds": 40,
        "local": {"steps": 4, "batch_size": 16, "optimiser": "adamw", "learning_rate": 5e-3},
        "server": {"kind": "average", "learning_rate": 1.0},
    }


def _batch(records: int) -> tuple[float, int]:
    """A rate with one digit and an expected batch that is a power of two: they tell the count roughly."""
    rate = float(f"{min(0.1, max(0.001, 256 / max(records, 1))):.1g}")
    return rate, _power_of_two(rate * records)


def _power_of_two(value: float) -> int:
    return int(2 ** max(0, round(math.log2(value)))) if value > 0 else 1


def _privacy(system: str, data: DataSketch | None) -> dict[str, Any]:
    unit = "record" if system in PRIVATE_BY_RECORD else "client"
    return {
        "unit": unit,
        "relation": "add-remove" if unit == "record" else "zero-out",
        "delta": 1e-5,
        "target_epsilon": 8.0,
        "clip_norm": 1.0 if data else "public",
        "trust": {"colluders": 0 if data and data.silos == 1 else 1},
    }


def _emit(key: str, value: Any, path: str, depth: int, texts: Mapping[str, str]) -> list[str]:
    pad = "  " * depth
    if not isinstance(value, dict) or path in ("data.template.verbalisers", "lora.layers"):
        return [f"{pad}{key}: {_flow(value)}"]
    lines = [f"{pad}{key}:"]
    for name, part in value.items():
        where = f"{path}.{name}"
        text = " ".join(filter(None, (texts.get(where, ""), _NOTES.get(where, ""))))
        lines += _comment(text, depth + 1)
        lines += _emit(name, part, where, depth + 1, texts)
    return lines


def _comment(text: str, depth: int) -> list[str]:
    pad = "  " * depth + "# "
    return textwrap.wrap(
        text.replace("``", "`"), WIDTH, initial_indent=pad, subsequent_indent=pad, break_long_words=False
    )


def _flow(value: Any) -> str:
    if isinstance(value, float):
        if value == int(value):
            return f"{value:.1f}"
        # YAML 1.1 takes 1e-5 for text; with a point it is a number.
        return f"{value:.1e}".replace("e-0", "e-") if value < 1e-3 else f"{value:g}"
    if isinstance(value, str) and "\n" in value:
        return json.dumps(value, ensure_ascii=False)  # a JSON string is YAML, and stays on its line
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000).strip()
    return text.removesuffix("...").strip()
