"""Hidden states at the first adapted layer for records, out of the cache or computed in fixed shapes.

Matrix products in bfloat16 give a row other bits when it is computed among another number of rows (measured
with oneDNN on AMX and on AVX-512). So that a cached state doesn't depend on which records happened to be
missing with it, states are always computed in a shape that the record's own length fixes: padded to a
multiple of 16, in groups filled up to about 512 tokens. With the same shape, threads, machine and library a
record's bits were the same in any company (`tests/unit/test_prefix_cache.py` watches this). ``alone=True``
doesn't rely on it: one record a pass, no padding.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privet.decoder import Decoder
from privet.prefix_cache import Bytes, PrefixCache
from privet.sequences import TokenSequence

GROUP_TOKENS = 512
LENGTH_STEP = 16
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
        alone: Compute each record by itself, without padding.
    """

    def __init__(
        self, decoder: Decoder, cache: PrefixCache, *, tokenizer: str = "", alone: bool = False
    ) -> None:
        self._decoder, self._cache, self._alone = decoder, cache, alone
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
            "alone" if alone else f"{GROUP_TOKENS}/{LENGTH_STEP}",
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
        for group, width in self._groups(missing.items()):
            for (key, _), data in zip(group, self._compute([s for _, s in group], width), strict=True):
                found[key] = data
                self._cache.put(key, data)
        return [found[key] for key in keys]

    def warm(self, sequences: Sequence[TokenSequence], spare: Iterable[TokenSequence]) -> None:
        """Computes what the cache lacks of ``sequences``, and fills the last groups up with some of ``spare``."""
        missing = {key: s for s in sequences if (key := self.key(s)) not in self._cache}
        if not missing:
            return
        places: Counter[int] = Counter()
        if not self._alone:
            for width, count in Counter(map(_width, missing.values())).items():
                places[width] = -count % max(1, GROUP_TOKENS // width)
        for sequence in spare:
            if not +places:
                break
            width = _width(sequence)
            if places[width] > 0 and (key := self.key(sequence)) not in self._cache and key not in missing:
                missing[key] = sequence
                places[width] -= 1
        for group, width in self._groups(missing.items()):
            for (key, _), data in zip(group, self._compute([s for _, s in group], width), strict=True):
                self._cache.put(key, data)

    def padded(self, states: Sequence[Bytes]) -> Tensor:
        """States of several sequences as one tensor [b, T, H] on the model's device, padded with zeros."""
        dtype, width = self._decoder.dtype, self._decoder.hidden_size
        words = [data.view(_WORDS[dtype.itemsize]).reshape(-1, width) for data in states]
        whole = np.zeros((len(words), max(map(len, words)), width), words[0].dtype)
        for row, part in zip(whole, words, strict=True):
            row[: len(part)] = part
        return torch.from_numpy(whole).view(dtype).to(self._decoder.device)

    def _groups(
        self, missing: Iterable[tuple[bytes, TokenSequence]]
    ) -> Iterable[tuple[list[tuple[bytes, TokenSequence]], int]]:
        by_width: defaultdict[int, list[tuple[bytes, TokenSequence]]] = defaultdict(list)
        for key, sequence in missing:
            by_width[_width(sequence)].append((key, sequence))
        for width, members in sorted(by_width.items()):
            size = 1 if self._alone else max(1, GROUP_TOKENS // width)
            for start in range(0, len(members), size):
                yield members[start : start + size], width

    def _compute(self, group: Sequence[TokenSequence], width: int) -> list[Bytes]:
        if self._alone:
            ids: NDArray[np.int64] = group[0].inputs[None, :]
        else:
            ids = np.zeros((max(1, GROUP_TOKENS // width), width), np.int64)
            for row, sequence in zip(ids, group, strict=False):
                row[: len(sequence)] = sequence.inputs
        hidden = self._decoder.prefix(torch.from_numpy(ids).to(self._decoder.device)).cpu()
        rows = [hidden[i, : len(sequence)] for i, sequence in enumerate(group)]
        return [row.contiguous().view(-1).view(torch.uint8).numpy() for row in rows]


def _width(sequence: TokenSequence) -> int:
    """Length to which a sequence is padded."""
    return -(-len(sequence) // LENGTH_STEP) * LENGTH_STEP
