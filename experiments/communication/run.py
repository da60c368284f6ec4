"""Bytes on the wire: DR-Encoder's two stages beside CG-FedLLM with exact updates and federated averaging.

Run ``python -m experiments.communication.run``.

The protocol, its messages and the codecs are the product's; the model is not there. Clients send random updates of a
real adapter's shapes (LoRA r = 8 on q and v: SmolLM2's, and a 7B model's), since no message's length depends on its
values. Every question and answer is encoded and counted by its bytes, headers, keys and masks included. A row is the
mean of a client in a round of one kind: ``prepare`` is stage 1 (statistics, or exact updates), ``train`` is stage 2,
and ``train, new codec`` a round of stage 2 whose codec was not known yet.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from experiments.study import Results

from privet import wire
from privet.codec_schedule import CodecSchedule
from privet.codecs import Layout, dimension_of
from privet.codecs.message import HEADER
from privet.config import Config, LocalConfig, parse
from privet.federation import Secrets, federate
from privet.messages import ROUND
from privet.pipeline import Floats
from privet.resolve import resolve
from privet.work import Workplace

HERE = Path(__file__).parent
NEW_CODEC = "train, new codec"
ENTRIES: dict[str, dict[str, Any]] = {
    "fedavg": {"system": {"kind": "fedavg"}, "codec": {"kind": "identity"}, "privacy": None},
    "cg_fedllm": {"system": {"kind": "cg_fedllm"}, "privacy": None},
    "dr_encoder, per tensor": {"system": {"kind": "dr_encoder", "statistics": {"releases": 1}}},
    "dr_encoder, per kind": {
        "system": {"kind": "dr_encoder", "statistics": {"releases": 1, "groups": "kind"}}
    },
    "dr_encoder, whole stack": {
        "system": {"kind": "dr_encoder", "statistics": {"releases": 1, "groups": "all"}}
    },
}


@dataclass
class Shapes:
    """A trainer without a model: updates are random."""

    dimension: int

    def set_flat(self, flat: Floats) -> None:
        """Nothing to set."""

    def per_unit_gradients(
        self, examples: Sequence[Any], micro_batch: int
    ) -> Iterator[tuple[tuple[str, ...], Floats]]:
        """Not used with one unit a client."""
        raise NotImplementedError

    def mean_gradient(self, examples: Sequence[Any]) -> Floats:
        """Not used with one unit a client."""
        raise NotImplementedError

    def train_locally(self, flat: Floats, examples: Sequence[Any], local: LocalConfig, seed: bytes) -> Floats:
        """Random values of an update's size."""
        draw = np.random.default_rng(list(seed[:8]))
        moved: Floats = flat + np.float32(1e-3) * draw.standard_normal(self.dimension, dtype=np.float32)
        return moved


def layout_of(adapter: Mapping[str, Any]) -> Layout:
    """Names and shapes of a LoRA adapter's factors."""
    r, found = adapter["rank"], []
    for layer in range(adapter["layers"]):
        for target, out in adapter["targets"].items():
            name = f"model.layers.{layer}.self_attn.{target}"
            found += [(f"{name}.lora_A", (r, adapter["width"])), (f"{name}.lora_B", (out, r))]
    return tuple(found)


def configured(study: Mapping[str, Any], entry: str, sealing: str) -> Config:
    """One system's configuration; its data and model are never looked at."""
    raw: dict[str, Any] = {
        "insecure_test_seed": 0,
        "model": {},
        "data": {"kind": "sentiment"},
        "schedule": {"rounds": study["rounds"], "server": {"kind": "average"}},
        "privacy": {"unit": "client", "relation": "zero-out", "noise_multiplier": 1.0, "clip_norm": 1.0},
        "codec": {**study["codec"], "ratio": study["ratio"]},
        "sealing": {"kind": sealing},
        **ENTRIES[entry],
    }
    return parse({name: value for name, value in raw.items() if value is not None})


def counted(study: Mapping[str, Any], adapter: str, entry: str, sealing: str) -> Iterator[dict[str, Any]]:
    """Rows of one run: mean bytes of a client in a round, by kind of round."""
    started = time.monotonic()
    config, layout = configured(study, entry, sealing), layout_of(study["adapters"][adapter])
    dimension, parties = dimension_of(layout), study["parties"]
    resolved = resolve(config, dimension=dimension, parties=parties, layout=layout)
    schedule = CodecSchedule(
        config.codec,
        layout,
        0,
        config.schedule.rounds,
        private=config.privacy is not None,
        sealed=sealing != "none",
        learns=config.system.preparation_rounds > 0,
    )
    kinds = {True: "prepare", False: "train"}
    up, down = defaultdict[str, int](int), defaultdict[str, int](int)
    due, rounds = {"kind": "keys"}, defaultdict[str, int](int, {"enrol and keys": 1})
    sizes: dict[str, int] = {}

    def tap(op: str, party: int, question: bytes, answer: bytes) -> None:
        if op == ROUND:
            due["kind"] = kinds[f.server.progress.number < config.system.preparation_rounds]
            if HEADER in wire.decode(question, f.engine.messages[ROUND].request):
                due["kind"] = NEW_CODEC
            if party == 0:
                rounds[due["kind"]] += 1
            sizes[due["kind"]] = f.server.size
        # Keys come before the first round and recovery after each: they count where they are due.
        kind = "enrol and keys" if op.startswith(("enrol", "keys")) else due["kind"]
        up[kind] += len(answer)
        down[kind] += len(question)

    f = federate(
        resolved,
        [Workplace(f"client{i}", Shapes(dimension), ["a record"], 1) for i in range(parties)],
        [Secrets.of_test_seed(0, party) for party in range(parties)],
        np.zeros(dimension, np.float32),
        schedule,
        run="communication",
        tap=tap,
    )
    f.engine.run(f.server.steps())
    for kind in up:
        share = rounds[kind] * parties
        yield {
            "adapter": adapter,
            "dimension": dimension,
            "tensors": len(layout),
            "codec": entry,
            "sealing": sealing,
            "kind": kind,
            "values": sizes.get(kind),
            "bytes_up": round(up[kind] / share),
            "bytes_down": round(down[kind] / share),
            "seed": 0,
            "seconds": round(time.monotonic() - started, 1),
        }


def main() -> None:
    """Count what is missing, and print how the ratio depends on what it counts."""
    study = json.loads((HERE / "config.json").read_text(encoding="utf-8"))
    results = Results(HERE / "results" / "bytes.json", study)
    for adapter in study["adapters"]:
        for sealing in study["sealings"][adapter]:
            for entry in ENTRIES:
                if entry == "cg_fedllm" and sealing != "none":
                    continue
                if not results.has(adapter=adapter, sealing=sealing, codec=entry):
                    for row in counted(study, adapter, entry, sealing):
                        results.add(row)
                        print(row, flush=True)
    for line in ratios(results.rows):
        print(line)


def ratios(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Stage 1 of CG-FedLLM over stage 1 of DR-Encoder: values, and bytes of a client's messages up."""
    prepare = {
        (r["adapter"], r["codec"]): r for r in rows if r["kind"] == "prepare" and r["sealing"] == "none"
    }
    for (adapter, codec), row in prepare.items():
        exact = prepare[adapter, "cg_fedllm"]
        if codec != "cg_fedllm":
            values = exact["values"] / row["values"]
            yield f"{adapter}, {codec}: {values:,.0f} by values, {exact['bytes_up'] / row['bytes_up']:,.0f} by bytes"


if __name__ == "__main__":
    main()
