"""How well codecs reconstruct single updates, by what they learned from.

Run ``python -m experiments.reconstruction.run``.

Codecs learn from one half of the clients (their statistics, or exact updates), or from public records, and
are measured on single updates of the other half. Nothing is noised here: this is the best case of each prior.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from experiments.study import Results, arguments

from privet.codec_config import AutoencoderCodec, CountSketchCodec, RandomProjectionCodec
from privet.codecs import Codec, Fidelity, Provenance, Sources, StatisticsCode, build, reconstruction
from privet.codecs.prior import TensorStatistics, as_layout
from privet.codecs.row_pca import RowPca
from privet.codecs.stacking import stacks_of
from privet.errors import PrivetError
from privet.system_config import Prior
from privet.update_sets import UpdateSet, UpdateSetConfig, load_or_collect

HERE = Path(__file__).parent


def statistics(updates: UpdateSet, prior: Prior) -> TensorStatistics:
    """Stage 1 without noise: the best statistics there could be."""
    code = StatisticsCode(as_layout(updates.layout), prior)
    return code.read(code.encode(updates.fit).mean(axis=0))


def candidates(
    updates: UpdateSet, ratio: int, seed: int, config: Mapping[str, Any]
) -> Iterator[tuple[str, Callable[[], Codec]]]:
    """Name and maker of each codec; the part before the slash says what it knows."""
    layout = updates.layout

    def learned(network: str, allocation: str, sources: Sources) -> Callable[[], Codec]:
        training = config["training"] | config["training_of"].get(network, {})
        made = AutoencoderCodec.model_validate(
            {**training, "ratio": ratio, "network": network, "allocation": allocation}
        )
        return partial(build, made, sources, seed=seed)

    priors: tuple[Prior, ...] = ("mean", "mean_std", "moments")
    by = {prior: Sources(layout, statistics=statistics(updates, prior)) for prior in priors}
    exact = Sources(layout, exact_updates=updates.fit)
    yield "nothing/random projection", partial(build, RandomProjectionCodec(ratio=ratio), exact, seed=seed)
    yield "nothing/count sketch", partial(build, CountSketchCodec(ratio=ratio), exact, seed=seed)
    for rule in ("by_std", "by_rate"):
        filled = RandomProjectionCodec.model_validate({"ratio": ratio, "allocation": rule})
        yield f"mean_std/random projection {rule}", partial(build, filled, by["mean_std"], seed=seed)
    for prior in priors:
        yield f"{prior}/mlp", learned("mlp", "uniform", by[prior])
    yield "exact/mlp", learned("mlp", "uniform", exact)
    for rule in ("by_std", "by_rate"):
        yield f"mean_std/mlp {rule}", learned("mlp", rule, by["mean_std"])
    if seed in config["conv_seeds"]:
        for network in ("conv", "plain_conv"):
            yield f"mean_std/{network}", learned(network, "uniform", by["mean_std"])
            yield f"exact/{network}", learned(network, "uniform", exact)
    if seed == config["seeds"][0]:
        # No seed is in them.
        yield "exact/row PCA", partial(RowPca.fit, updates.fit, layout, ratio, provenance=Provenance.EXACT)
        yield "public/row PCA", partial(RowPca.fit, updates.public, layout, ratio)


def by_kind(found: Fidelity, updates: UpdateSet) -> dict[str, float]:
    """Mean cosine of the tensors of each kind of factor."""
    return {
        stack.kind: round(float(np.mean([found.per_tensor[name].cosine for name in stack.names])), 4)
        for stack in stacks_of(updates.layout)
    }


def main() -> None:
    """Measure what is missing."""
    given, config = arguments(__doc__ or ""), json.loads((HERE / "config.json").read_text(encoding="utf-8"))
    config["updates"] = config["updates"][given.model]
    results = Results(HERE / "results" / f"{given.model}.json", config)
    updates = load_or_collect(
        UpdateSetConfig(**config["updates"]),
        given.updates,
        lambda what, at, of: print(what, at, of, flush=True),
    )
    done = 0
    for seed in config["seeds"]:
        for ratio in config["ratios"]:
            for name, make in candidates(updates, ratio, seed, config):
                left = any(part in name for part in given.without)
                if left or results.has(codec=name, ratio=ratio, seed=seed):
                    continue
                if done == given.limit:
                    return
                done += 1
                start = time.process_time()
                row: dict[str, Any] = {"codec": name, "ratio": ratio, "seed": seed}
                try:
                    codec = make()
                except PrivetError as e:
                    results.add({**row, "refused": str(e)})
                    continue
                found = reconstruction(codec, updates.clients, updates.layout)
                row |= {
                    "size": codec.size,
                    "dimension": codec.dimension,
                    "cpu_seconds": round(time.process_time() - start, 1),
                }
                row |= {
                    "cosine": round(found.overall.cosine, 5),
                    "relative_error": round(found.overall.relative_error, 5),
                    "cosine_by_kind": by_kind(found, updates),
                }
                results.add(row)
                shown = f"cosine {found.overall.cosine:.4f}  {row['cpu_seconds']} s"
                print(f"{name:34} {ratio:3}x seed {seed}  {shown}", flush=True)


if __name__ == "__main__":
    main()
