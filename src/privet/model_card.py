"""The model card of an exported adapter: what it is, what was promised about the data behind it, and what was not.

The card says nothing that the run did not write down. An epsilon stands beside its unit, relation, delta and observer;
a run without a finite one says ``none`` and why.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import yaml

from privet import __version__
from privet.model_config import SMALL_MODEL
from privet.plain import plain
from privet.report import numbers
from privet.report.page import AUDIT_NOTE, releases, warnings
from privet.report.record import ObserverRow, RunRecord

SEARCH = (
    "Search over hyper-parameters is outside the printed ε: every run on the same private data is a further release, "
    "and their costs add up."
)


SMALL = (
    "`small` is privet's own test model, a tiny Llama that each machine trains for itself, and no model hub has it: "
    "`privet fetch small` makes it and prints its folder, under `~/.cache/privet` unless `PRIVET_CACHE` names another."
)
WITHHELD = "This run was attacked. The figures are exact functions of training records and are not handed on."


def model_card(record: RunRecord, *, base: str, parameters: int, audit: bool = True) -> str:
    """The card as Markdown with the metadata that model hubs read.

    Args:
        record: The run.
        base: Name of the base model.
        parameters: Values in the adapter's tensors.
        audit: Show what ``privet audit`` found.
    """
    evidence = _evidence(record) if audit or not record.audit else [WITHHELD]
    record = record if audit else replace(record, audit=None)
    parts = [
        _metadata(base),
        f"# LoRA adapter of the run {_words(record.name)}",
        f"Fine-tuned over several silos with privet {__version__}, system "
        f"{_code(record.system)}, from {_code(base)}. {parameters:,} values in its tensors.",
        *_notes(record),
        "## Use",
        f"```python\n{_usage(base)}\n```",
        *([SMALL] if base == SMALL_MODEL else []),
        "## Prompt",
        *_prompt(record),
        "## Privacy statement",
        *_privacy(record),
        "## Evidence",
        *evidence,
        "## Results",
        *_results(record),
        "## Training",
        *_training(record),
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(base: str) -> str:
    data = {
        "library_name": "peft",
        "base_model": base,
        "pipeline_tag": "text-generation",
        "tags": ["lora", "federated-learning", "differential-privacy", "privet"],
    }
    return "---\n" + yaml.safe_dump(data, sort_keys=False) + "---"


def _notes(record: RunRecord) -> list[str]:
    return ["\n".join(f"> {_words(text)}" for text in found)] if (found := warnings(record)) else []


def _prompt(record: RunRecord) -> list[str]:
    """How records became text: an adapter answers what it was trained on."""
    data = record.config.get("data") or {}
    template: Mapping[str, Any] = data.get("template") or {}
    if not template:
        return ["The run wrote no template down."]
    kind, facts = str(template.get("kind")), {"template": str(template.get("kind"))}
    if kind == "chat" and template.get("messages"):
        column = _code(template["messages"])
        facts["conversation"] = _Marked(f"column {column}; the last turn of the assistant is learned")
    else:
        facts |= {name: _literal(template[name]) for name in ("prompt", "completion") if template.get(name)}
    if kind == "chat":
        facts["system message"] = _literal(template["system"]) if template.get("system") else "none"
    if verbalisers := template.get("verbalisers"):
        facts["answer by label"] = _Marked(
            ", ".join(f"{_words(label)}: {_literal(word)}" for label, word in verbalisers.items())
        )
    facts["tokens at most (max_length)"] = f"{data.get('max_length')}; longer prompts lost their beginning"
    how = (
        "The tokenizer's chat template writes the conversation."
        if kind == "chat"
        else "Prompt and answer follow each other as they stand, without a chat template."
    )
    return [
        f"The adapter was trained on text of this form; `{{column}}` stands for a record's own. {how}",
        _table(("what", "value"), list(facts.items())),
    ]


class _Marked(str):
    """Text that is Markdown already; whatever else a run wrote down is text and becomes `_words`."""


def _literal(text: Any) -> _Marked:
    """Text with its spaces and line ends to be seen."""
    return _code(json.dumps(str(text), ensure_ascii=False))


def _code(text: Any) -> _Marked:
    """Text in a code span that no mark within it ends."""
    shown = plain(str(text))
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return _Marked(f"{fence}{pad}{shown}{pad}{fence}")


def _usage(base: str) -> str:
    if base == SMALL_MODEL:
        base = "FOLDER that `privet fetch small` prints"
    return (
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({json.dumps(base, ensure_ascii=False)})\n"
        'model = PeftModel.from_pretrained(model, "path/of/this/folder")'
    )


def _privacy(record: RunRecord) -> list[str]:
    statement: Mapping[str, Any] = record.privacy or {}
    promise = record.promise
    about = f"unit {promise['unit']}, relation {promise['relation']}, δ = {numbers.delta(promise['delta'])}"
    clip, sigma = statement.get("clip_norm"), statement.get("noise_multiplier")
    facts = {
        "unit": promise["unit"],
        "neighbouring relation": promise["relation"],
        "mechanism": statement.get("mechanism"),
        "clip norm (L2)": "nothing is clipped" if clip is None else numbers.number(clip),
        "noise multiplier": "nothing is noised" if sigma is None else numbers.number(sigma),
        "sampling": "; ".join(dict.fromkeys(row["sampling"] for row in releases(record) if row["sigma"]))
        or "–",
        "rounds": f"{len(record.rounds)} of {record.planned_rounds}",
        "δ": numbers.delta(promise["delta"]),
        "δ′, the part of δ for what runs being not quite the ideal": numbers.number(
            statement.get("delta_prime")
        ),
        "accountant": statement.get("accountant"),
        "sealing": record.config.get("sealing", {}).get("kind", "none"),
    }
    not_covered = list(statement.get("not_covered", ()))
    if not any("hyper-parameters" in text for text in not_covered):
        not_covered.append(SEARCH)
    if record.audit:
        not_covered.append(AUDIT_NOTE)
    trust = (statement.get("trust_model") or {}).get("text", "none was written down")
    return [
        f"**{_words(statement.get('guarantee', 'No guarantee was written down.'))}**",
        _table(("observer", f"ε ({about})", "method", "sees"), [_observer(row) for row in record.observers]),
        "ε is rounded up. `exact` is a closed form, `pld` an upper bound by privacy loss distributions.",
        _table(("what", "value"), [(name, str(value)) for name, value in facts.items()]),
        f"**Trust model.** {_words(trust)}",
        "**What is not covered**",
        "\n".join(f"- {_words(text)}" for text in not_covered),
        "`privacy.json` holds this statement and `dp_event.json` every release, for anybody to account again.",
    ]


def _evidence(record: RunRecord) -> list[str]:
    if not record.audit:
        return ["This run was not attacked (`privet audit` does it)."]
    rows: list[tuple[str, ...]] = [
        (
            row["attack"] + (" (control)" if row["control"] else ""),
            row["setting"],
            f"{row['metric']}; {row['samples']}",
            numbers.with_interval(row["value"], row["low"], row["high"]),
            numbers.number(row["compared"]),
            row["verdict"],
        )
        for row in record.audit["findings"]
    ]
    return [
        f"`privet audit`, suite {record.audit['suite']}: {record.audit['alarms'] or 'no'} alarms. A control is the "
        "same attack without protection. An attack that fails proves nothing, and *not applicable* never means safe; "
        "what is promised is ε alone.",
        _table(("attack", "on", "metric; samples", "value [interval]", "beside", "verdict"), rows),
    ]


def _observer(row: ObserverRow) -> tuple[str, ...]:
    sees = (
        row.description if row.inside else f"{row.description} (beyond the trust model: shown, not promised)"
    )
    value = numbers.epsilon(row.epsilon)
    return (
        row.name,
        f"{value}: {row.reason}" if row.epsilon is None and row.reason else value,
        row.method,
        sees,
    )


def _results(record: RunRecord) -> list[str]:
    if not record.silos:
        return ["The test data are not declared public: metrics stayed at the silos."]
    rows = [
        (
            row.silo,
            str(row.records),
            *(
                numbers.percent_interval(
                    part.get("accuracy"), part.get("accuracy_low"), part.get("accuracy_high")
                )
                for part in (row.before, row.after)
            ),
            *(numbers.loss(part.get("nll"), part.get("nll_se")) for part in (row.before, row.after)),
        )
        for row in record.silos
    ]
    head = ("silo", "test records", "accuracy before", "accuracy after", "loss before", "loss after")
    return [
        _table(head, rows),
        "Accuracy with its 95 % interval; loss in nats ± standard error; before is the base model.",
    ]


def _training(record: RunRecord) -> list[str]:
    versions = record.environment.get("packages") or {}
    facts = {
        "system": record.system,
        "rounds": str(len(record.rounds)),
        "bytes up, all clients": numbers.size(record.bytes_up),
        "bytes down, all clients": numbers.size(record.bytes_down),
        "time": numbers.duration(record.seconds),
        "started": str(record.environment.get("started", numbers.NOTHING)),
        **{name: str(version) for name, version in versions.items()},
    }
    return [_table(("what", "value"), list(facts.items()))]


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return (text if isinstance(text, _Marked) else _words(text)).replace("|", "\\|")


def _words(text: Any) -> str:
    """Text of one line without HTML, links or pictures in it."""
    return html.escape(plain(str(text)), quote=False).replace("](", "]\\(")
