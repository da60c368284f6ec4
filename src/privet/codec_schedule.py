"""Which codec a round uses: computed by the server half from what is public, and sent with the adapter.

A codec that follows from the last released update, from public gradients or from noisy statistics is post-processing,
so choosing it anew costs no privacy. The clip comes after it in any case. A codec that keeps no more of an update than
a random projection to the same size is refused before it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from privet.codec_config import (
    AutoencoderCodec,
    CodecConfig,
    PruneCodec,
    PublicSubspaceCodec,
    RowPcaCodec,
    TopKCodec,
)
from privet.codecs import (
    Codec,
    Fidelity,
    Identity,
    Layout,
    Noise,
    Sources,
    aggregate,
    build,
    check_error_feedback,
    check_sound,
    check_works,
    gate,
    reconstruction,
)
from privet.codecs.allocation import PerTensor
from privet.codecs.base import dimension_of
from privet.codecs.fidelity import control_for
from privet.codecs.training import Epoch
from privet.errors import PrivetError
from privet.pipeline import Floats
from privet.privacy.events import NoGuarantee
from privet.systems.base import Preparation

PublicGradients = Callable[[Floats], Floats]
"""From trained values, float32 [D], to gradients on public records, float32 [n, D]."""

TRAINING = "training the codec"
REHEARSED = 48
"""Public updates that a codec is learned from before there are others; with fewer there is no such rehearsal."""
HELD_OUT = 24
"""Updates that a codec is measured on; more would cost time and settle nothing."""


@dataclass(frozen=True)
class CodecSchedule:
    """The run's codecs over its rounds.

    Attributes:
        config: The section ``codec``.
        layout: Names and shapes of the trained tensors.
        seed: Public seed.
        rounds: Rounds of the run.
        private: Whether the run claims an epsilon.
        sealed: Whether only sums are opened.
        public: Gradients on public records, where there are any.
        held_out: Gradients on other public records, for measuring; where there are any.
        origin: What ``public`` and ``held_out`` are, in words.
        rehearsal: Gradients on public records that a learned codec is tried on before anything is released; where there
            are enough.
        learns: Whether the codec is made from what a preparation released.
        given: Whether it is made elsewhere and comes with each question: at a site without the public records.
        noise: Clip norm and noise of a sum of codes as this run has them, for measuring; absent without noise.
        cohort: Vectors in such a sum.
        observe: Told how far training is, and what a codec keeps.
    """

    config: CodecConfig
    layout: Layout
    seed: int
    rounds: int
    private: bool
    sealed: bool
    public: PublicGradients | None = None
    held_out: PublicGradients | None = None
    rehearsal: PublicGradients | None = None
    origin: str = "public updates"
    learns: bool = False
    given: bool = False
    noise: Noise | None = None
    cohort: float = 1.0
    observe: Callable[[str, dict[str, Any]], None] = lambda kind, facts: None

    def first(self, flat: Floats) -> Codec | None:
        """The codec at the start: of round 0, or none where it is still to be learned, or is made elsewhere."""
        if self.learns or self.given:
            return None
        codec = self.codec(0, flat, None, None)
        if codec is not None and self.held_out is not None:
            self._measure(codec, self.held_out(flat), self.origin)
        return codec

    def codec(
        self, number: int, flat: Floats, last_update: Floats | None, current: Codec | None
    ) -> Codec | None:
        """The codec of a round; ``None`` for the identity.

        Args:
            number: Round, from 0; those of a preparation are not counted.
            flat: Trained values at its start, float32 [D].
            last_update: What the last round changed, float32 [D]; ``None`` in the first.
            current: The codec of the round before.

        Raises:
            PrivetError: if what the codec needs is not there, or it is unsound in this run.
        """
        if self.learns or self.given or not self._is_due(number, current):
            return current
        gradients = self.public(flat) if follows_public(self.config) and self.public else None
        sources = Sources(self.layout, public_updates=gradients, last_update=last_update)
        codec = build(self.config, sources, seed=self.seed, round_number=number, rounds=self.rounds)
        if isinstance(codec, Identity):
            return None
        self.check(codec)
        return codec

    def rehearse(self, preparation: Preparation, flat: Floats) -> None:
        """Learn the codec from public updates, as it will be learned from what the preparation releases.

        Nothing is released yet, so what is refused here has cost no privacy (docs/adr/0010-gate-before-stage-1.md).

        Args:
            preparation: What its rounds will be.
            flat: Trained values at the start, float32 [D].

        Raises:
            PrivetError: if such a codec keeps no more than a random projection to the same size.
        """
        if self.rehearsal is None or self.config.allow_useless:
            return
        rows = self.rehearsal(flat)
        gathered = rows if preparation.code is None else preparation.code.encode(rows)
        replace(self, observe=lambda kind, facts: None).learned(preparation, gathered, flat)

    def learned(self, preparation: Preparation, gathered: Floats, flat: Floats) -> Codec:
        """The codec that the rest of the run uses, from what a preparation released.

        Args:
            preparation: What its rounds were.
            gathered: Mean messages [E, k], or single updates [n, D].
            flat: Trained values, float32 [D].

        Raises:
            PrivetError: if it is unsound, or keeps no more than a random projection to the same size.
        """
        if preparation.code is None:
            held = -(-len(gathered) // 8)
            sources = Sources(self.layout, exact_updates=gathered[held:])
            held_out, what = gathered[:held], "updates that it did not learn from"
        else:
            statistics = preparation.code.read(gathered.mean(axis=0))
            exact = isinstance(preparation.system.release, NoGuarantee)
            sources = Sources(self.layout, statistics=statistics, statistics_are_exact=exact)
            held_out, what = statistics.sample(HELD_OUT, (self.seed, HELD_OUT)), "synthetic updates"
        self.observe("stage", {"name": TRAINING})
        codec = build(self.config, sources, seed=self.seed, rounds=self.rounds, progress=self._tell)
        self.check(codec)
        if self.held_out is not None:
            held_out, what = self.held_out(flat), self.origin
        self._measure(codec, held_out, what)
        return codec

    def check(self, codec: Codec) -> None:
        """Refuse a codec that this run cannot use, or not soundly; clients ask this of what they are sent.

        Raises:
            PrivetError: if it is not of the kind that the run is configured with, is unsound, belongs to another
                adapter, has codes of an impossible length, or fails when it is used.
        """
        parts = [part for part, _ in codec.parts] if isinstance(codec, PerTensor) else [codec]
        if unknown := {part.kind for part in parts} - {self.config.kind, "identity"}:
            raise PrivetError(
                "is not the run's",
                field="codec.kind",
                given=", ".join(sorted(unknown)),
                allowed=self.config.kind,
            )
        check_sound(codec, private=self.private, sealed=self.sealed)
        if self.config.error_feedback:
            check_error_feedback(codec)
        check_works(codec, dimension_of(self.layout), self._longest)

    @property
    def _longest(self) -> int:
        """Numbers that a code has at most: those of the adapter, and what blocks of an autoencoder are padded with."""
        padding = self.config.block * len(self.layout) if isinstance(self.config, AutoencoderCodec) else 0
        return dimension_of(self.layout) + padding

    def _measure(self, codec: Codec, updates: Floats, what: str) -> None:
        """The fidelity gate, on updates that may be looked at freely."""
        found, control = gate(
            codec,
            lambda one: reconstruction(one, updates, self.layout),
            seed=self.seed + 1,
            allow_useless=self.config.allow_useless,
        )
        facts: dict[str, Any] = {
            "codec": self.config.kind,
            "size": codec.size,
            "ratio": round(found.ratio, 2),
            **_closeness(found, control),
            "measured_on": what,
            "updates": len(updates),
        }
        if self.noise is not None and codec.summable:
            # As much noise on the mean of these updates as there is on that of a cohort.
            noise = replace(self.noise, multiplier=self.noise.multiplier * len(updates) / self.cohort)
            noisy = [
                aggregate(one, updates, self.layout, noise)
                for one in (codec, control_for(codec, self.seed + 1))
            ]
            facts["with_noise"] = _closeness(*noisy)
        facts["per_tensor"] = {
            name: {"cosine": round(each.cosine, 4), "relative_error": round(each.relative_error, 4)}
            for name, each in found.per_tensor.items()
        }
        self.observe("codec", facts)

    def _tell(self, epoch: Epoch) -> None:
        self.observe("progress", {"name": TRAINING, "done": epoch.number, "total": epoch.of})

    def _is_due(self, number: int, current: Codec | None) -> bool:
        if isinstance(self.config, PruneCodec):
            return True
        if isinstance(self.config, RowPcaCodec | PublicSubspaceCodec):
            return number % self.config.refresh_rounds == 0
        return number == 0 and current is None


def follows_public(config: CodecConfig) -> bool:
    """Whether a codec is made from updates on public records."""
    if isinstance(config, TopKCodec):
        return config.support == "public"
    return isinstance(config, RowPcaCodec | PublicSubspaceCodec)


def _closeness(found: Fidelity, control: Fidelity) -> dict[str, float]:
    return {
        "cosine": round(found.overall.cosine, 4),
        "relative_error": round(found.overall.relative_error, 4),
        "control_cosine": round(control.overall.cosine, 4),
    }
