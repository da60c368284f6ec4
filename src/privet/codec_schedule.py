"""Which codec a round uses: computed by the server half from what is public, and sent with the adapter.

A codec that follows from the last released update or from public gradients is post-processing, so choosing it anew
costs no privacy. The clip comes after it in any case.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from privet.codec_config import CodecConfig, PruneCodec, PublicSubspaceCodec, RowPcaCodec
from privet.codecs import Codec, Identity, Layout, Sources, build, check_sound
from privet.pipeline import Floats

PublicGradients = Callable[[Floats], Floats]
"""From trained values, float32 [D], to gradients on public records, float32 [n, D]."""


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
    """

    config: CodecConfig
    layout: Layout
    seed: int
    rounds: int
    private: bool
    sealed: bool
    public: PublicGradients | None = None

    def codec(
        self, number: int, flat: Floats, last_update: Floats | None, current: Codec | None
    ) -> Codec | None:
        """The codec of a round; ``None`` for the identity.

        Args:
            number: Round, from 0.
            flat: Trained values at its start, float32 [D].
            last_update: What the last round changed, float32 [D]; ``None`` in the first.
            current: The codec of the round before.

        Raises:
            PrivetError: if what the codec needs is not there, or it is unsound in this run.
        """
        if not self._is_due(number, current):
            return current
        follows_public = isinstance(self.config, RowPcaCodec | PublicSubspaceCodec)
        gradients = self.public(flat) if follows_public and self.public else None
        sources = Sources(self.layout, public_updates=gradients, last_update=last_update)
        codec = build(self.config, sources, seed=self.seed, round_number=number, rounds=self.rounds)
        if isinstance(codec, Identity):
            return None
        self.check(codec)
        return codec

    def check(self, codec: Codec) -> None:
        """Refuse a codec that this run cannot use soundly; clients ask this of what they are sent."""
        check_sound(codec, private=self.private, sealed=self.sealed)

    def _is_due(self, number: int, current: Codec | None) -> bool:
        if isinstance(self.config, PruneCodec):
            return True
        if isinstance(self.config, RowPcaCodec | PublicSubspaceCodec):
            return number % self.config.refresh_rounds == 0
        return number == 0 and current is None
