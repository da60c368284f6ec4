"""``invert.latent``: which tokens a code holds, for an attacker who knows the encoder.

The pursuit of `invert_tokens.py` runs on what the decoder gives back. Compression is no protection: what an encoder
leaves out is what makes updates alike, and what makes them differ is what it keeps. (Mapping the dictionary by the
encoder as well was worse: in the few directions that a basis keeps, too many tokens look alike.)

The positive control is a public mask, which is an encoder too (`inversions.py`). A basis of public gradients is a
harder case: at a ratio of 4 over the whole vector it keeps some 19 of 576 directions of a row of A, and these are
mostly the template's, so many private tokens are gone from the code. That is no protection: which remain is luck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from privet.attacks import control, invert_tokens
from privet.attacks.control import Prepared
from privet.attacks.finding import Finding
from privet.codec_config import IdentityCodec, PruneCodec, RowPcaCodec
from privet.config import Config
from privet.errors import PrivetError
from privet.tokenise import Example

RATIO = 4.0
SEES = "one client's code, and the encoder"


def findings(config: Config, prepared: Prepared, records: Mapping[str, Sequence[Example]]) -> list[Finding]:
    """Recall from codes of the public row basis, and of the run's own codec where it has another."""
    codecs: list[Any] = []
    if prepared.material.public:
        codecs.append(RowPcaCodec(ratio=RATIO, rows="factor", refresh_rounds=1, allow_useless=True))
    if not isinstance(config.codec, IdentityCodec | PruneCodec | RowPcaCodec):
        codecs.append(config.codec)
    return [_finding(config, prepared, codec, records) for codec in codecs]


def _finding(
    config: Config, prepared: Prepared, codec: Any, records: Mapping[str, Sequence[Example]]
) -> Finding:
    setting = f"batch 1, codec {codec.kind}"
    if hasattr(codec, "ratio"):
        setting += f", {codec.ratio:g} times smaller"
    try:
        done = prepared.rehearse(control.coded(config, codec), records)
    except PrivetError as error:
        return control.refused("invert.latent", setting, SEES, error)
    recalls = invert_tokens.message_recalls(prepared, done, records)
    return invert_tokens.finding(setting, recalls, sees=SEES, control=True, attack="invert.latent")
