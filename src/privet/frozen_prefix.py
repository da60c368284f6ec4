"""Hidden states at the first adapted layer for records, out of the cache or computed in fixed shapes.

Matrix products in bfloat16 give a row other bits when it is computed among another number of rows (measured
with oneDNN on AMX and on AVX-512). So that a cached state doesn't depend on which records happened to be
missing with it, states are always computed in a shape that the record's own length fixes: padded to a
multiple of 16, in groups filled up to about 256 tokens. With the same shape, threads, machine and library a
record's bits are the same in any company on the machines that were tried; `privet.company` tries it where it runs,
and where it fails, or tokens are routed to experts, every record passes by itself.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privet.company import Rows, bytes_of, computes_by_content, keeps_bits
from privet.decoder import Decoder
from privet.prefix_cache import Bytes, PrefixCache
from privet.sequences import LENGTH_STEP, Shape, TokenSequence, padded_length

GROUP_TOKENS = 256
"""Groups of 512 hold more dummies where a silo draws some 30 records a round, and were no faster by the token in
float32 on a processor without AMX; bfloat16 was not tried."""
_WORDS = {2: np.uint16, 4: np.uint32, 8: np.uint64}


def model_fingerprint(model: nn.Module) -> str:
    """SHA-256 over a model's configuration and its parameters' shapes, dtypes and bytes, without adapters."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(f"{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    config = getattr(model, "config", None)
    digest.update(config.to_json_string().encode() if config is not None else b"")
    return digest.hexdigest()


class FrozenPrefix:
    """The lower half of a model behind a cache.

    Args:
        decoder: Must be able to run in two parts.
        cache: Where states are kept. Several prefixes may share one: keys tell them apart.
        tokenizer: Names the tokenizer; token ids mean nothing without it.
    """

    def __init__(self, decoder: Decoder, cache: PrefixCache, *, tokenizer: str = "") -> None:
        self._decoder, self._cache = decoder, cache
        self._rows: dict[int, int] = {}
        self._group_tokens = 0 if computes_by_content(decoder.model.config) else GROUP_TOKENS
        facts = (
            model_fingerprint(decoder.model),
            tokenizer,
            decoder.first_layer,
            decoder.dtype,
            decoder.device.type,
            getattr(decoder.model.config, "_attn_implementation", None),
            torch.__version__,
            torch.backends.cpu.get_cpu_capability(),
            torch.get_num_threads(),
            f"{self._group_tokens}/{LENGTH_STEP}",
        )
        self._context = hashlib.sha256(repr(facts).encode()).digest()

    @property
    def is_full(self) -> bool:
        """Whether the cache keeps nothing more."""
        return self._cache.is_full

    def key(self, sequence: TokenSequence) -> bytes:
        """The cache key of a sequence, 32 bytes."""
        return hashlib.sha256(self._context + sequence.inputs.astype("<i8").tobytes()).digest()

    def states(self, sequences: Sequence[TokenSequence]) -> list[Bytes]:
        """Hidden states of each sequence as bytes ([length·H·itemsize]), computing what is missing."""
        keys = [self.key(sequence) for sequence in sequences]
        found = {key: data for key in set(keys) if (data := self._cache.get(key)) is not None}
        missing = {key: s for key, s in zip(keys, sequences, strict=True) if key not in found}
        found.update(self._computed(missing))
        return [found[key] for key in keys]

    def warm(self, sequences: Sequence[TokenSequence], spare: Iterable[TokenSequence]) -> None:
        """Computes what the cache lacks of ``sequences``, and fills the last groups up with some of ``spare``."""
        missing = {key: s for s in sequences if (key := self.key(s)) not in self._cache}
        if not missing:
            return
        places: Counter[int] = Counter()
        for width, count in Counter(padded_length(len(s)) for s in missing.values()).items():
            places[width] = -count % self._rows_of(width)
        for sequence in spare:
            if not +places:
                break
            width = padded_length(len(sequence))
            if places[width] > 0 and (key := self.key(sequence)) not in self._cache and key not in missing:
                missing[key] = sequence
                places[width] -= 1
        for _ in self._computed(missing):
            if self._cache.is_full:
                return

    def padded(self, states: Sequence[Bytes], shape: Shape | None = None) -> Tensor:
        """States of several sequences as one tensor [b, T, H] on the model's device, padded with zeros.

        Args:
            states: Of each sequence.
            shape: [rows, width] to fill; absent, as many rows as sequences and as wide as the longest.
        """
        dtype, width = self._decoder.dtype, self._decoder.hidden_size
        words = [data.view(_WORDS[dtype.itemsize]).reshape(-1, width) for data in states]
        size = (len(words), max(map(len, words))) if shape is None else (shape.rows, shape.width)
        whole = np.zeros((*size, width), words[0].dtype)
        for row, part in zip(whole, words, strict=False):
            row[: len(part)] = part
        return torch.from_numpy(whole).view(dtype).to(self._decoder.device)

    def _computed(self, missing: Mapping[bytes, TokenSequence]) -> Iterator[tuple[bytes, Bytes]]:
        """Keys and states of ``missing``, group by group, each put into the cache."""
        for group, width in self._groups(missing.items()):
            for (key, _), data in zip(group, self._compute([s for _, s in group], width), strict=True):
                self._cache.put(key, data)
                yield key, data

    def _groups(
        self, missing: Iterable[tuple[bytes, TokenSequence]]
    ) -> Iterable[tuple[list[tuple[bytes, TokenSequence]], int]]:
        by_width: defaultdict[int, list[tuple[bytes, TokenSequence]]] = defaultdict(list)
        for key, sequence in missing:
            by_width[padded_length(len(sequence))].append((key, sequence))
        for width, members in sorted(by_width.items()):
            size = self._rows_of(width)
            for start in range(0, len(members), size):
                yield members[start : start + size], width

    def _compute(self, group: Sequence[TokenSequence], width: int) -> list[Bytes]:
        ids: NDArray[np.int64] = np.zeros((self._rows_of(width), width), np.int64)
        for row, sequence in zip(ids, group, strict=False):
            row[: len(sequence)] = sequence.inputs
        hidden = self._run(ids)
        rows = [hidden[i, : len(sequence)] for i, sequence in enumerate(group)]
        return [row.contiguous().view(-1).view(torch.uint8).numpy() for row in rows]

    def _run(self, ids: NDArray[np.int64]) -> Tensor:
        return self._decoder.prefix(torch.from_numpy(ids).to(self._decoder.device)).cpu()

    def _rows_of(self, width: int) -> int:
        """Rows of a pass of this width: one, where rows do not keep their bits in company."""
        if width not in self._rows:
            rows = max(1, self._group_tokens // width)
            made_up = np.random.default_rng(width).integers(0, self._decoder.vocabulary, (rows + 1, width))
            made_up[-1] = 0

            def run(order: list[int]) -> Rows:
                hidden = self._run(made_up[order]).contiguous()
                return bytes_of(hidden.view(-1).view(torch.uint8).numpy().reshape(rows, -1))

            self._rows[width] = rows if rows > 1 and keeps_bits(run, rows) else 1
        return self._rows[width]
