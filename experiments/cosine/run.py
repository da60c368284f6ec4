"""Cosine to the true mean update under client-level noise, for every codec.

Run ``python -m experiments.cosine.run``.

A cohort's updates are encoded, clipped at the median length of public codes, summed, noised once with a
multiplier z, and decoded. ``public mean alone`` is what one gets without asking any client: the control of
whatever uses public data. The same is measured once more with the public mean direction taken out of all
updates (``removed``): what is left is what public data could not have told by itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from experiments.study import Results, arguments

from privet.codec_config import AutoencoderCodec, CountSketchCodec, RandomProjectionCodec
from privet.codecs import Codec, Noise, Sources, StatisticsCode, aggregate, build, median_code_norm
from privet.codecs.fidelity import Closeness, closeness, control_for
from privet.codecs.identity import Identity
from privet.codecs.prior import as_layout
from privet.codecs.prune import Prune
from privet.codecs.public_subspace import PublicSubspace
from privet.codecs.row_pca import RowPca
from privet.errors import PrivetError
from privet.update_sets import UpdateSet, UpdateSetConfig, load_or_collect

HERE = Path(__file__).parent
FIXED = ("no codec", "prune", "public")
"""Beginnings of the names of codecs that no seed changes; the noise on their codes differs all the same."""


def without_public_mean(updates: UpdateSet) -> UpdateSet:
    """All updates with the direction of the mean public update taken out."""
    direction = updates.public.mean(axis=0, dtype=np.float64)
    direction /= np.linalg.norm(direction)

    def removed(rows: np.ndarray) -> np.ndarray:
        return (rows - np.outer(rows @ direction, direction)).astype(np.float32)

    return replace(
        updates,
        clients=removed(updates.clients),
        fit=removed(updates.fit),
        public=removed(updates.public),
    )


def candidates(
    updates: UpdateSet, seed: int, config: Mapping[str, Any]
) -> Iterator[tuple[str, Callable[[], Codec]]]:
    """Name and maker of each codec."""
    layout = updates.layout
    code = StatisticsCode(as_layout(layout))
    sources = Sources(
        layout,
        public_updates=updates.public,
        statistics=code.read(code.encode(updates.fit).mean(axis=0)),
    )

    def learned(ratio: int, **changes: str) -> Callable[[], Codec]:
        training = config["training"] | config["training_of"].get(changes.get("network", "conv"), {})
        made = AutoencoderCodec.model_validate({**training, "ratio": ratio, **changes})
        return partial(build, made, sources, seed=seed)

    mean = updates.public.mean(axis=0)
    yield "no codec", partial(Identity, mean.size)
    for r in config["ratios"]:
        filled = RandomProjectionCodec(ratio=r, allocation="by_std")
        yield f"random projection {r}x", partial(build, RandomProjectionCodec(ratio=r), sources, seed=seed)
        yield f"count sketch {r}x", partial(build, CountSketchCodec(ratio=r), sources, seed=seed)
        yield f"random projection by_std {r}x", partial(build, filled, sources, seed=seed)
        yield f"prune by public mean {r}x", partial(Prune.largest, mean, 1 / r)
        if seed in config["conv_seeds"]:
            yield f"Gaussian conv {r}x", learned(r)
        yield f"Gaussian mlp by_rate {r}x", learned(r, network="mlp", allocation="by_rate")
        yield f"Gaussian mlp by_std {r}x", learned(r, network="mlp", allocation="by_std")
    for r in config["row_pca_ratios"]:
        yield f"public row PCA {r}x", partial(RowPca.fit, updates.public, layout, r)
    for k in config["directions"]:
        yield f"public subspace {k}", partial(PublicSubspace.fit, updates.public, k)


def public_alone(updates: UpdateSet) -> dict[str, Any]:
    """The mean public update beside the clients' true mean."""
    found = closeness(updates.public.mean(axis=0)[None], updates.clients.mean(axis=0)[None])
    return {"size": 0, "cosine": round(found.cosine, 5), "relative_error": round(found.relative_error, 5)}


@dataclass(frozen=True, eq=False)
class Prepared:
    """A codec with what does not change with the noise.

    Attributes:
        codec: The codec.
        norm: Clip norm of its codes.
        codes: Of the clients' updates, float32 [n, k].
    """

    codec: Codec
    norm: float
    codes: np.ndarray

    @classmethod
    def of(cls, codec: Codec, updates: UpdateSet) -> Prepared:
        """Encode everything once."""
        return cls(codec, median_code_norm(codec, updates.public), codec.encode(updates.clients))


@dataclass
class Bench:
    """Measures codecs on one set of updates; keeps the controls, and codecs that no seed changes."""

    updates: UpdateSet
    draws: int
    controls: dict[tuple[int, int], Prepared] = field(default_factory=dict)
    beside: dict[tuple[int, int, float], Closeness] = field(default_factory=dict)
    fixed: dict[str, Prepared] = field(default_factory=dict)

    def rows(
        self, name: str, make: Callable[[], Codec], noises: Sequence[float], seed: int
    ) -> Iterator[dict[str, Any]]:
        """The rows of one codec: one a noise multiplier."""
        start = time.process_time()
        try:
            ours = self._prepared(name, make)
        except PrivetError as e:
            yield {"codec": name, "seed": seed, "refused": str(e)}
            return
        size = ours.codec.size
        for noise in noises:
            mine, beside = self._measured(ours, noise, seed), self._control(ours.codec, noise, seed)
            yield {
                "codec": name,
                "noise": noise,
                "seed": seed,
                "size": size,
                "dimension": ours.codec.dimension,
                "cosine": round(mine.cosine, 5),
                "relative_error": round(mine.relative_error, 5),
                "control_cosine": round(beside.cosine, 5),
                "cpu_seconds": round(time.process_time() - start, 1),
            }

    def _prepared(self, name: str, make: Callable[[], Codec]) -> Prepared:
        if not name.startswith(FIXED):
            return Prepared.of(make(), self.updates)
        if name not in self.fixed:
            self.fixed[name] = Prepared.of(make(), self.updates)
        return self.fixed[name]

    def _control(self, codec: Codec, noise: float, seed: int) -> Closeness:
        """The random projection to the same size, which several codecs have for their control."""
        key = (codec.size, seed)
        if key not in self.controls:
            self.controls[key] = Prepared.of(control_for(codec, seed + 1000), self.updates)
        if (*key, noise) not in self.beside:
            self.beside[*key, noise] = self._measured(self.controls[key], noise, seed)
        return self.beside[*key, noise]

    def _measured(self, which: Prepared, noise: float, seed: int) -> Closeness:
        told = Noise(which.norm, noise, seed, self.draws)
        return aggregate(which.codec, self.updates.clients, self.updates.layout, told, which.codes).overall


def main() -> None:
    """Measure what is missing."""
    given, config = arguments(__doc__ or ""), json.loads((HERE / "config.json").read_text(encoding="utf-8"))
    config["updates"] = config["updates"][given.model]
    results = Results(HERE / "results" / f"{given.model}.json", config)
    found = load_or_collect(
        UpdateSetConfig(**config["updates"]),
        given.updates,
        lambda what, at, of: print(what, at, of, flush=True),
    )
    if not results.has(codec="public mean alone"):
        results.add({"codec": "public mean alone", "removed": False, "seed": 0, **public_alone(found)})
    benches = {which: Bench(rows, config["draws"]) for which, rows in _both(found).items()}
    done = 0
    for seed, removed in product(config["seeds"], benches):
        bench = benches[removed]
        for name, make in candidates(bench.updates, seed, config):
            key = {"codec": name, "removed": removed, "seed": seed}
            # A codec that was cut off between two noise multipliers is measured again for those that lack.
            lacking = [z for z in config["noises"] if not results.has(**key, noise=z)]
            refused = any("refused" in row for row in results.rows if key.items() <= row.items())
            if not lacking or refused or any(part in name for part in given.without):
                continue
            if done == given.limit:
                return
            done += 1
            for row in bench.rows(name, make, lacking, seed):
                results.add({**row, "removed": removed})
                if "refused" not in row:
                    shown = f"{row['cosine']}  {row['cpu_seconds']} s"
                    print(f"{name:32} removed {removed!s:5} z {row['noise']}: {shown}", flush=True)


def _both(found: UpdateSet) -> dict[bool, UpdateSet]:
    return {False: found, True: without_public_mean(found)}


if __name__ == "__main__":
    main()
