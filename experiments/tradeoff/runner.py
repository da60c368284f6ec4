"""One run of the study: from a set-up to a row, on the product's own path, and what is measured at its end.

Learning rates are chosen on the public records. These are cut in two by group: clip norms and codecs look at one half
(``fit``), and the control, which trains on ``fit`` in its search, is validated on the other half alone. Runs of a
search never meet the test records.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from experiments.tradeoff.setups import NOMINAL, Setup
from numpy.typing import NDArray

from privet.config import Config, MaskedSealing
from privet.data.records import Record
from privet.federation import Secrets, federate, sum_field
from privet.lora import factors_of
from privet.material import Material, Question, codec_schedule, gather, layout_of, questions
from privet.measure import losses
from privet.pipeline import Floats
from privet.public_clip import public_clip_norm
from privet.resolve import Resolved, resolve
from privet.run_folder import config_hash
from privet.sealing.levels import forecast
from privet.tokenise import Example
from privet.work import Workplace

BLOCKS = 48
"""Losses of test records are kept as sums over so many blocks of whole groups: two runs are paired by block."""


@dataclass
class Ground:
    """Loaded model and data of one kind of set-up.

    Attributes:
        material: What the product loaded; its public records are the half ``fit``.
        validation: Questions of all public records.
        held_out: Those of the half that is not ``fit``.
        everything: All public records.
        test: Test questions.
        blocks: Block of each of them.
        domains: Domain of each of them.
        groups: Group of each public record by name.
        clips: Clip norms that were measured on ``fit``.
        epsilons: Epsilon by set-up; it takes longer to compute than to keep.
    """

    material: Material
    validation: list[Question]
    held_out: list[Question]
    everything: list[Example]
    test: list[Question]
    blocks: NDArray[np.int64]
    domains: list[str]
    groups: dict[str, str]
    clips: dict[str, float] = field(default_factory=dict)
    epsilons: dict[str, float | None] = field(default_factory=dict)


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _group(record: Record) -> str:
    return record.group or record.id


def prepare(config: Config) -> Ground:
    """Load model and data, and divide the public and the test records."""
    material = gather(config)
    groups = {r.id: _group(r) for r in material.dataset.public}
    fit = [e for e in material.public if _digest(groups[e.id]) % 2 == 0]
    validation = questions(config, material.dataset.public, material)
    group_of = {r.id: _group(r) for held in material.dataset.test.values() for r in held}
    test = [(name, q) for name, asked in material.test.items() for q in asked]
    asked = [e for q in [*validation, *(q for _, q in test)] for e in q.choices or (q.example,)]
    # Most records are drawn sooner or later, and passes of full shape cost less than what a round leaves half empty.
    material.trainer.backbone.warm([*asked, *(e for held in material.silos.values() for e in held)])
    return Ground(
        material=replace(material, public=fit),
        validation=validation,
        held_out=[q for q in validation if _digest(groups[q.example.id]) % 2 == 1],
        everything=material.public,
        test=[q for _, q in test],
        blocks=np.array([_digest(group_of[q.example.id]) % BLOCKS for _, q in test], np.int64),
        domains=[name for name, _ in test],
        groups=groups,
    )


def train(
    ground: Ground, setup: Setup, rate: float, seed: int, *, final: bool
) -> tuple[dict[str, Any], Floats]:
    """Train.

    Args:
        ground: What :func:`prepare` gave for this configuration's model, data and adapters.
        setup: What to run.
        rate: Learning rate.
        seed: Test seed of sampling, noise and order.
        final: Whether this is a run at the chosen rate. The control then learns from all public records.

    Returns:
        The row so far, and the trained values, float32 [D].
    """
    started, cpu = time.monotonic(), time.process_time()
    config = setup.config(rate, seed)
    material, backbone = ground.material, ground.material.trainer.backbone
    places = _places(ground, setup, seed, final)
    records = sum(len(place.examples) for place in places)
    if setup.silos == "public" and config.schedule.expected_batch is not None:
        q = min(1.0, config.schedule.expected_batch / records)
        config = config.model_copy(
            update={"schedule": config.schedule.model_copy(update={"sampling_rate": q})}
        )
    resolved = resolve(
        config,
        dimension=backbone.dimension,
        parties=len(places),
        clip_norm=_clip_norm(ground, config),
        factors=factors_of(backbone.layout),
        layout=layout_of(material),
    )
    f = federate(
        resolved,
        places,
        [Secrets.of_test_seed(seed, party) for party in range(len(places))],
        backbone.initial_flat(),
        codec_schedule(config, material),
        run="tradeoff",
    )
    progress = f.engine.run(f.server.steps())
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    if setup.identity not in ground.epsilons:
        ground.epsilons[setup.identity] = epsilon(setup, resolved)
    row = {
        **named(setup, rate, seed, "final" if final else "grid"),
        "run_config": config_hash(config)[:12],
        "dimension": backbone.dimension,
        "values": f.server.size,
        "silos": len(places),
        "train_records": records,
        "clip_norm": resolved.facts.clip_norm if config.privacy else None,
        "epsilon": ground.epsilons[setup.identity],
        "delta": config.privacy.delta if config.privacy else None,
        "rounds": progress.number,
        "bytes_up": f.engine.bytes_up,
        "bytes_down": f.engine.bytes_down,
        "masked_bytes_up": masked_bytes(resolved, f.server.size, len(places)),
        "dtype": material.model.dtype,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
    }
    return row, f.flat


def named(setup: Setup, rate: float | None, seed: int | None, stage: str) -> dict[str, Any]:
    """What names a row."""
    return {
        "part": setup.part,
        "family": setup.family,
        "noise": setup.noise,
        "rate": rate,
        "seed": seed,
        "stage": stage,
        "setup": setup.identity,
        "task": setup.task,
    }


def _places(ground: Ground, setup: Setup, seed: int, final: bool) -> list[Workplace]:
    """Who trains on what."""
    trainer, size = ground.material.trainer, setup.config(1.0, seed).engine.micro_batch
    held = ground.material.silos
    if setup.silos == "public":
        records = ground.everything if final else ground.material.public
        held = {"public": list(records)}
        if setup.task == "nyt":
            held = _by_group(records, ground.groups)
    elif setup.silos == "pooled":
        held = {"pooled": [e for examples in held.values() for e in examples]}
    elif isinstance(setup.silos, int):
        drawn = sorted(held, key=lambda name: _digest(f"{seed}/{name}"))[: setup.silos]
        held = {name: held[name] for name in sorted(drawn)}
    if setup.share < 1:
        most = int(setup.share * 2**64)
        held = {name: [e for e in examples if _digest(e.id) < most] for name, examples in held.items()}
    return [Workplace(name, trainer, examples, size) for name, examples in held.items()]


def _by_group(examples: Sequence[Example], groups: dict[str, str]) -> dict[str, list[Example]]:
    found: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        found[groups[example.id].replace("/", "-")].append(example)
    return dict(found)


def _clip_norm(ground: Ground, config: Config) -> float:
    """The product's clip norm on the public half ``fit``, measured once for all set-ups that clip the same thing."""
    if config.privacy is None:
        return 1.0
    key = config.model_dump_json(include={"system", "codec"}) + config.privacy.unit
    if config.privacy.unit == "client":
        key += config.schedule.local.model_dump_json()
    if key not in ground.clips:
        ground.clips[key] = public_clip_norm(config, ground.material)
    return ground.clips[key]


def validate(ground: Ground, setup: Setup, flat: Floats) -> dict[str, Any]:
    """Mean NLL in nats on public records that the set-up does not train on in its search; rates are chosen by it.

    A record's NLL is that of the right choice, or the mean of its tokens for a task without choices.
    """
    ground.material.trainer.set_flat(flat)
    asked = ground.held_out if setup.silos == "public" else ground.validation
    nll, _ = losses(ground.material, asked, ground.material.trainer.micro_batch)
    return {"validation": {"records": len(nll), "nll": _number(float(nll.mean()))}}


def test(ground: Ground, flat: Floats) -> dict[str, Any]:
    """Mean NLL in nats on the test records, also by domain; by block the sum of NLL and the number of records.

    A record's NLL is as in :func:`validate`. For tasks with choices also the share answered right, 0 to 1, also by
    domain, and by block the number answered right.
    """
    ground.material.trainer.set_flat(flat)
    nll, right = losses(ground.material, ground.test, ground.material.trainer.micro_batch)
    sums, counts = (np.bincount(ground.blocks, weights, BLOCKS) for weights in (nll, None))
    row: dict[str, Any] = {
        "records": len(nll),
        "nll": _number(float(nll.mean())),
        "nll_se": _number(float(nll.std(ddof=1) / math.sqrt(len(nll)))),
        "block_nll": [_number(float(total)) for total in sums],
        "block_records": counts.astype(int).tolist(),
    }
    names = sorted(set(ground.domains))
    of = {name: np.array([d == name for d in ground.domains]) for name in names}
    row["domain_nll"] = {name: _number(float(nll[of[name]].mean())) for name in names}
    if right is not None:
        row["accuracy"] = float(right.mean())
        row["block_right"] = np.bincount(ground.blocks, right, BLOCKS).astype(int).tolist()
        row["domain_accuracy"] = {name: _number(float(right[of[name]].mean())) for name in names}
    return {"test": row}


def _number(value: float) -> float | None:
    """Six digits after the point; ``None`` for what is no number, since JSON has none."""
    return round(value, 6) if math.isfinite(value) else None


def epsilon(setup: Setup, resolved: Resolved) -> float | None:
    """What the noise of all planned rounds is worth against the server, without colluders; rounded up.

    ``None`` where there is no noise or a nominal one.
    """
    if setup.noise is None or setup.noise < NOMINAL or setup.silos == "public":
        return None
    ledger = resolved.ledger()
    for release in resolved.planned():
        ledger.charge(release)
    value = ledger.epsilon("server").headline.value
    return None if value is None else math.ceil(value * 1000) / 1000


def masked_bytes(resolved: Resolved, size: int, parties: int) -> int | None:
    """Forecast upload of a client and round under masks, which these runs leave off; ``None`` under three clients."""
    if parties < 3:
        return None
    plan = forecast(
        MaskedSealing(),
        size=size,
        field=sum_field(resolved, resolved.facts.dimension),
        parties=parties,
        survivors=resolved.trust.min_survivors,
        rounds=resolved.config.schedule.rounds,
    )
    return plan.upload_bytes
