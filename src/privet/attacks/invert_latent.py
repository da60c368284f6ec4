"""``invert.latent``: which tokens a code holds, for an attacker who knows the encoder.

A linear encoder of rows maps the dictionary of `invert_tokens.py` to another dictionary, and the pursuit goes on
in that one. Compression is no protection: what an encoder leaves out is what makes updates alike, and what makes
them differ is what it keeps. With other encoders the pursuit runs on what the decoder gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from privet.attacks import control, invert_tokens
from privet.attacks.control import Prepared
from privet.attacks.finding import Finding
from privet.attacks.layer_inputs import row_map
from privet.attacks.pursuit import unit_rows
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
    seen = control.last_round(done)
    known = prepared
    if isinstance(codec, RowPcaCodec) and seen.codec is not None:
        mapped = prepared.raw_dictionary @ row_map(seen.codec, prepared.layout, 0)
        known = replace(prepared, dictionary=unit_rows(mapped.astype(np.float32)))
    recalls = invert_tokens.message_recalls(known, done, records)
    return invert_tokens.finding(setting, recalls, sees=SEES, control=True, attack="invert.latent")
