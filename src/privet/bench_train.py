"""Training speed beside a plain peft loop: the same model, records and trained tensors, in one run.

Every path makes whole optimiser steps on batches of equal records. Repetitions are interleaved (one step of
each path in turn), so that a busy machine slows all paths alike; medians are reported, in wall and in CPU
seconds.

* ``peft``: what a user of peft writes, ``model(input_ids, labels=labels).loss.backward()`` and AdamW.
* ``ours``: mean gradient through `Backbone` and AdamW on the flat vector; ``uncached`` or ``cached`` lower
  layers.
* ``private``: per-record gradients, clipped, rounded to the grid in exact integers, summed, noised, then the
  same step.

Cached paths are measured once the cache is full, as in every pass over the records but the first; what
filling it costs is in ``fill``. Supervision decides how much the head costs, so both kinds are measured:
``answer`` supervises the last tokens of each record, as in instruction tuning; ``full`` supervises every
position, as in pre-training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from privet.clip import clip_rows
from privet.config import OptimiserConfig
from privet.fixed_point import round_units
from privet.hardware import cpu_features
from privet.keys import derive
from privet.lora import Factors, LoraSpec, Vector
from privet.mechanism import GaussianMechanism
from privet.model_config import ModelConfig
from privet.models import load_model
from privet.optimiser import Optimiser
from privet.prefix_cache import PrefixCache
from privet.tokenise import Example
from privet.train import Backbone

Supervision = Literal["answer", "full"]
BATCHES = 4
"""Different batches that the paths go through, so that no path lives on one batch's data in the processor's caches."""


@dataclass(frozen=True)
class Workload:
    """What every path trains.

    Attributes:
        layers: Top layers with an adapter.
        batch: Records a step.
        length: Tokens a record.
        answer: Supervised tokens at each record's end for ``answer``.
        rank: LoRA rank; alpha is twice that.
        factors: Trained factors.
        threads: Threads of torch; ``None`` leaves what is set.
        repeats: Steps of each path that count; one more comes before them.
    """

    layers: int = 4
    batch: int = 4
    length: int = 128
    answer: int = 16
    rank: int = 8
    factors: Factors = "both"
    threads: int | None = None
    repeats: int = 9

    def spec(self) -> LoraSpec:
        """The adapter."""
        return LoraSpec(
            rank=self.rank,
            alpha=2.0 * self.rank,
            targets=("q_proj", "v_proj"),
            layers=self.layers,
            factors=self.factors,
        )

    def records(self, vocabulary: int, supervision: Supervision, seed: int = 0) -> list[list[Example]]:
        """`BATCHES` batches of random tokens: no speed here depends on what they say."""
        draws = np.random.Generator(np.random.PCG64(seed))
        mask = np.zeros(self.length, np.bool_)
        mask[-1 - (self.answer if supervision == "answer" else self.length - 1) : -1] = True
        return [
            [
                Example(f"{b}/{i}", draws.integers(5, vocabulary, self.length).astype(np.int32), mask)
                for i in range(self.batch)
            ]
            for b in range(BATCHES)
        ]


Step = Callable[[int], None]


def bench_train(
    model: ModelConfig | None = None,
    workload: Workload | None = None,
    supervisions: Sequence[Supervision] = ("answer", "full"),
    observe: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measures all paths.

    Args:
        model: The base model; the embedded one if absent.
        workload: What is trained.
        supervisions: Which kinds of supervision.
        observe: Told what is being done, for progress.

    Returns:
        ``machine``, ``workload``, ``rows`` (one a path and supervision, with wall and CPU seconds a step,
        tokens a second and the speed-up over ``peft`` at the same supervision), and ``fill`` (seconds a batch
        that filling the cache takes).
    """
    work = workload or Workload()
    threads_before = torch.get_num_threads()
    if work.threads is not None:
        torch.set_num_threads(work.threads)
    try:
        return _measure(model or ModelConfig(), work, supervisions, observe)
    finally:
        torch.set_num_threads(threads_before)


def _measure(
    model: ModelConfig, work: Workload, supervisions: Sequence[Supervision], observe: Callable[[str], None]
) -> dict[str, Any]:
    observe("loading the model three times")
    cpu = cpu_features()
    caches = {"uncached": None, "cached": PrefixCache()}
    loaded = load_model(model)
    vocabulary = loaded.model.get_input_embeddings().weight.shape[0]
    ours = {
        name: Backbone(load_model(model).model, work.spec(), cache=cache) for name, cache in caches.items()
    }
    peft_step = _peft_steps(loaded.model, work, vocabulary)
    rows: list[dict[str, Any]] = []
    for supervision in supervisions:
        batches = work.records(vocabulary, supervision)
        paths: dict[str, Step] = {"peft": peft_step(supervision)}
        for name, backbone in ours.items():
            paths[f"ours, {name}"] = _plain_step(backbone, batches)
            paths[f"ours, {name}, private"] = _private_step(backbone, batches, work.batch)
        paths["ours, cached, one record at a time, private"] = _private_step(ours["cached"], batches, 1)
        observe(f"measuring {len(paths)} paths, {supervision} supervised")
        rows += _rows(_interleaved(paths, work.repeats), supervision, work)
    return {
        "machine": {
            "processor": cpu.name,
            "features": list(cpu.features),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        "model": {"name": loaded.name, "dtype": loaded.dtype, "device": loaded.device},
        "workload": {
            "layers": work.layers,
            "batch": work.batch,
            "length": work.length,
            "supervised": {"answer": work.answer, "full": work.length - 1},
            "rank": work.rank,
            "factors": work.factors,
            "trained_values": ours["cached"].dimension,
            "repeats": work.repeats,
        },
        "rows": rows,
        "fill": _fill(ours["cached"], work, vocabulary),
    }


def _peft_steps(model: Any, work: Workload, vocabulary: int) -> Callable[[Supervision], Step]:
    from peft import LoraConfig, get_peft_model

    spec = work.spec()
    depth = model.config.num_hidden_layers
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=int(spec.alpha),
        target_modules=list(spec.targets or ()),
        layers_to_transform=list(range(depth - work.layers, depth)),
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    if work.factors == "freeze_a":
        for name, parameter in adapted.named_parameters():
            parameter.requires_grad_("lora_B" in name)
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4)

    def steps(supervision: Supervision) -> Step:
        prepared = []
        for batch in work.records(vocabulary, supervision):
            ids, labels = hugging_face_batch(batch)
            prepared.append((ids.to(model.device), labels.to(model.device)))

        def step(number: int) -> None:
            ids, labels = prepared[number % BATCHES]
            adapted(input_ids=ids, labels=labels, use_cache=False).loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

        return step

    return steps


def hugging_face_batch(batch: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, int64 [b, T] each, of records of one length, as transformers wants them.

    ``labels[t]`` is the token at t if it is learned, else −100; transformers shifts them itself.
    """
    ids = torch.from_numpy(np.stack([example.input_ids for example in batch]).astype(np.int64))
    learned = np.stack([np.roll(example.supervised, 1) for example in batch])
    return ids, torch.where(torch.from_numpy(learned), ids, -100)


def _plain_step(backbone: Backbone, batches: Sequence[Sequence[Example]]) -> Step:
    state = _State(backbone)

    def step(number: int) -> None:
        gradient, _ = backbone.mean_gradient(batches[number % BATCHES], len(batches[0]))
        state.move(-gradient)

    return step


def _private_step(backbone: Backbone, batches: Sequence[Sequence[Example]], micro_batch: int) -> Step:
    state = _State(backbone)
    mechanism = GaussianMechanism(clip_norm=1.0, noise_multiplier=1.0, dimension=backbone.dimension)
    grid, root = mechanism.grid, bytes(32)

    def step(number: int) -> None:
        total = np.zeros(backbone.dimension, np.int64)
        for ids, gradients in backbone.per_unit_gradients(batches[number % BATCHES], micro_batch):
            clipped, _ = clip_rows(gradients, mechanism.clip_norm)
            # Fixed keys: what is measured here is never released.
            total += round_units(clipped, grid, [derive(root, "unit", name) for name in ids]).sum(axis=0)
        total += mechanism.share(derive(root, "noise", number))
        state.move((-grid.step / len(batches[0]) * total).astype(np.float32))

    return step


class _State:
    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._values = backbone.initial_flat()
        self._optimiser = Optimiser.fresh(
            OptimiserConfig(learning_rate=1e-4, normalise=False), backbone.dimension, rounds=1
        )

    def move(self, direction: Vector) -> None:
        self._values = self._optimiser.step(self._values, direction)
        self._backbone.set_flat(self._values)


def _interleaved(paths: dict[str, Step], repeats: int) -> dict[str, NDArray[np.float64]]:
    """Wall and CPU seconds of each path's steps, float64 [repeats, 2]; the first step of each is dropped."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in paths}
    # All batches have to be in the cache before anything counts.
    for number in range(BATCHES):
        paths["ours, cached"](number)
    for number in range(repeats + 1):
        for name, step in paths.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step(number)
            taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: np.array(values[1:]) for name, values in taken.items()}


def _rows(
    taken: dict[str, NDArray[np.float64]], supervision: Supervision, work: Workload
) -> Iterator[dict[str, Any]]:
    def ratio(above: str, below: str, column: int) -> float:
        # Of neighbouring steps, so that a slow spell of the machine cancels.
        return round(float(median(taken[above][:, column] / taken[below][:, column])), 3)

    for name, times in taken.items():
        row: dict[str, Any] = {
            "supervision": supervision,
            "path": name,
            "step_seconds": round(float(median(times[:, 0])), 4),
            "cpu_seconds": round(float(median(times[:, 1])), 4),
            "tokens_per_second": round(work.batch * work.length / float(median(times[:, 0])), 1),
            "speedup": ratio("peft", name, 0),
            "speedup_cpu": ratio("peft", name, 1),
        }
        if name.endswith(", private"):
            plain = ", ".join(name.split(", ")[:2])
            row |= {"over_non_private": ratio(name, plain, 0), "over_non_private_cpu": ratio(name, plain, 1)}
        yield row


def _fill(backbone: Backbone, work: Workload, vocabulary: int) -> dict[str, float]:
    """Seconds that computing the cached states of a new batch takes."""
    taken = []
    for batch in work.records(vocabulary, "full", seed=1):
        start = time.perf_counter()
        backbone.warm(batch)
        taken.append(time.perf_counter() - start)
    return {"seconds_a_batch": round(median(taken), 4)}
