"""The clip norm that public records suggest, and how far their clipped vectors agree: neither costs privacy.

What is measured is what will be clipped: a record's gradient or a client's update, and its *code* where the run clips
codes. A projection's code of k numbers is shorter than the vector, by about sqrt(k/D); a clip norm of whole vectors
would clip none of them and make the noise that much too large.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from privet.codec_schedule import HELD_OUT
from privet.config import Config, LocalConfig
from privet.errors import PrivetError
from privet.material import Material, codec_schedule
from privet.pipeline import CodecLike, Floats
from privet.tokenise import Example

MOST_RECORDS = 256
MOST_BLOCKS = 8


def public_clip_norm(config: Config, material: Material) -> float:
    """Median length of what one privacy unit would send, over public records and at the initial adapter.

    Args:
        config: The run. Its first codec counts; one that is still to be learned from a preparation does not, and later
            codecs of a run keep this norm.
        material: Whose public records. Those that the codec is computed from are left out where enough others remain.

    Raises:
        PrivetError: if there are no public records.
    """
    return median_length(public_vectors(config, material))


def median_length(batches: Iterable[Floats]) -> float:
    """Median Euclidean length of the rows of several float32 [b, k]."""
    return float(
        np.median(np.concatenate([np.linalg.norm(rows.astype(np.float64), axis=1) for rows in batches]))
    )


def public_vectors(config: Config, material: Material) -> Iterator[Floats]:
    """What units would send before the clip, made of public records: float32 [b, k] each.

    Raises:
        PrivetError: if there are no public records.
    """
    codec = _codec(config, material)
    examples = _public(material)
    learned_from = getattr(config.codec, "updates", 0) if codec else 0
    if len(examples) - learned_from >= HELD_OUT:
        examples = examples[learned_from:]
    whole = _updates(material, config.schedule.local, examples)
    for rows in whole if _whole_client(config) else public_gradients(material, examples[:MOST_RECORDS]):
        yield rows if codec is None else codec.encode(rows)


def public_gradients(material: Material, examples: Sequence[Example]) -> Iterator[Floats]:
    """Gradients of public records one by one, at the initial adapter: float32 [b, D] each.

    Raises:
        PrivetError: if there are none.
    """
    _public(material)
    trainer = material.trainer
    trainer.set_flat(trainer.backbone.initial_flat())
    for _, rows in trainer.per_unit_gradients(examples, trainer.micro_batch):
        yield rows


def _public(material: Material) -> list[Example]:
    if not material.public:
        raise PrivetError(
            "there are no public records to take it from",
            field="privacy.clip_norm",
            given="public",
            allowed="a number, or data with a public part",
            hint="set data.split.public or data.public_path, or give a number such as 1.0",
        )
    return material.public


def _codec(config: Config, material: Material) -> CodecLike | None:
    """The codec whose codes the run clips; ``None`` where it clips whole vectors."""
    # dp_lora's local steps clip gradients, and only its update is encoded; elsewhere the clip follows the encoder.
    steps = config.system.kind == "dp_lora" and (config.system.faithful or not _is_client(config))
    # The codec of a preparation is not there yet; an autoencoder's codes are as long as what they stand for.
    if steps or config.system.preparation_rounds:
        return None
    initial = material.trainer.backbone.initial_flat()
    return codec_schedule(config, material).codec(0, initial, None, None)


def _is_client(config: Config) -> bool:
    return config.privacy is not None and config.privacy.unit == "client"


def _whole_client(config: Config) -> bool:
    """Whether a unit is a client's update; dp_lora as published clips the gradient of a batch instead."""
    return _is_client(config) and not (config.system.kind == "dp_lora" and config.system.faithful)


def _updates(material: Material, local: LocalConfig, examples: Sequence[Example]) -> Iterator[Floats]:
    """Local updates on blocks of as many records as a client's local steps see."""
    size = min(len(examples), local.steps * local.batch_size)
    initial = material.trainer.backbone.initial_flat()
    for start in range(0, len(examples) - size + 1, size)[:MOST_BLOCKS]:
        block = examples[start : start + size]
        yield (material.trainer.train_locally(initial, block, local, bytes(32)) - initial)[None, :]
