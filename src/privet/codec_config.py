"""The ``codec`` section of a run: which map makes a contribution small, told apart by ``kind``.

A codec gives no epsilon, and none is lost by it, since the clip comes after it. It buys bytes. Whether it
also buys utility is what ``privet bench codecs`` and the fidelity gate are for. This module imports nothing
heavy.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from privet.config_section import Section

Allocation = Literal["uniform", "by_std", "by_rate"]
Scale = Literal["projection", "unbiased"]
PublicSource = Literal["public_data", "self_generated"]


class _Codec(Section):
    allow_useless: bool = Field(
        False,
        description="Go on although the codec's measured fidelity is no better than random projection's "
        "at the same "
        "size; otherwise such a codec is refused.",
    )
    error_feedback: bool = Field(
        False,
        description="Each client keeps what its code lost and adds it to its next update. For "
        "`privacy.unit: client` "
        "only: with it, one record's influence would persist over rounds.",
    )


class _Compressing(_Codec):
    ratio: float = Field(16.0, ge=1, description="How many times smaller the code is than the contribution.")


class IdentityCodec(_Codec):
    """No compression."""

    kind: Literal["identity"] = "identity"


class PruneCodec(_Codec):
    """Keep the coordinates of one public mask that all clients share (after arXiv 2506.05640)."""

    kind: Literal["prune"] = "prune"
    mask: Literal["last_update", "seed"] = Field(
        "last_update",
        description="`last_update` keeps the largest coordinates of the last released update; `seed` a "
        "random choice.",
    )
    start_round: int = Field(40, ge=0, description="Round before which nothing is pruned.")
    start_rate: float = Field(0.2, ge=0, lt=1, description="Share of coordinates pruned at `start_round`.")
    end_rate: float = Field(0.5, ge=0, lt=1, description="Share pruned at most: the cap.")
    end_round: int | None = Field(None, ge=0, description="Round that reaches the cap; the last when absent.")


class RandomProjectionCodec(_Compressing):
    """Signs, blockwise Walsh-Hadamard transform, subsampling: a fast projection with orthonormal rows."""

    kind: Literal["random_projection"] = "random_projection"
    scale: Scale = Field(
        "projection",
        description="`projection` decodes to the orthogonal projection (least error); `unbiased` "
        "multiplies by D/k.",
    )
    allocation: Allocation = Field(
        "uniform", description="How the code's numbers are shared out over the tensors; see docs/codecs.md."
    )


class CountSketchCodec(_Compressing):
    """Each coordinate, with a sign, into one of k buckets (Charikar 2002; FetchSGD, arXiv 2007.07682)."""

    kind: Literal["count_sketch"] = "count_sketch"
    scale: Scale = Field(
        "projection",
        description="`projection` decodes to the orthogonal projection (least error); `unbiased` to the "
        "classic sketch.",
    )
    allocation: Allocation = Field(
        "uniform", description="How the code's numbers are shared out over the tensors; see docs/codecs.md."
    )


class TopKCodec(_Compressing):
    """The largest coordinates: of a public reference or, without sealing and privacy only, of each client."""

    kind: Literal["top_k"] = "top_k"
    support: Literal["public", "client"] = Field(
        "public",
        description="`public` takes the largest coordinates of a public gradient; `client` lets every "
        "client choose, "
        "which leaks and does not add up: refused together with sealing or privacy.",
    )


class RowPcaCodec(_Compressing):
    """Principal components of the rows of public updates, one basis for each kind of factor."""

    kind: Literal["row_pca"] = "row_pca"
    rows: Literal["auto", "factor", "tensor"] = Field(
        "auto",
        description="What a row is: one row of a factor, or a whole layer's factor. `auto` takes what keeps "
        "more of held-out public updates.",
    )
    source: PublicSource = Field(
        "public_data",
        description="Whose updates: those on the public records, or on sentences of the base model.",
    )
    updates: int = Field(64, ge=1, description="Public updates that the basis is computed from.")
    refresh_rounds: int = Field(10, ge=1, description="Rounds after which the basis is computed again.")


class PublicSubspaceCodec(_Codec):
    """The orthonormalised span of public gradients (arXiv 2102.12677; arXiv 2007.03813)."""

    kind: Literal["public_subspace"] = "public_subspace"
    size: int = Field(32, ge=1, le=4096, description="Numbers k in the code: directions that are kept.")
    source: PublicSource = Field(
        "public_data",
        description="Whose gradients: those on the public records, or on sentences of the base model.",
    )
    updates: int = Field(
        64, ge=1, description="Public gradients that the subspace is computed from; at least `size`."
    )
    refresh_rounds: int = Field(10, ge=1, description="Rounds after which the subspace is computed again.")


class AutoencoderCodec(_Compressing):
    """A conv ResNet over stacked factors (CG-FedLLM, arXiv 2405.13746), or a small MLP over blocks."""

    kind: Literal["autoencoder"] = "autoencoder"
    network: Literal["conv", "plain_conv", "mlp"] = Field(
        "conv",
        description="`conv` and `plain_conv` take ratios 2, 4, 8 ... 64, one stride-2 block each; `mlp` "
        "takes any. `plain_conv` is the published stack; `conv` adds a linear shortcut around it, without "
        "which it hardly trains.",
    )
    allocation: Allocation = Field(
        "uniform", description="How the code's numbers are shared out over the tensors; see docs/codecs.md."
    )
    block: int = Field(512, ge=8, le=8192, description="Numbers in one block of the MLP.")
    samples: int = Field(256, ge=8, description="Synthetic updates that the network is trained on.")
    holdout: int = Field(32, ge=2, description="Further synthetic updates that decide when training stops.")
    epochs: int = Field(30, ge=1, description="Passes over the samples at most.")
    patience: int = Field(
        3, ge=1, description="Passes without a gain on the hold-out after which training stops."
    )
    batch_size: int = Field(8, ge=1, description="Synthetic updates a step.")
    learning_rate: float = Field(2e-3, gt=0, description="Adam's step size.")


CodecConfig = Annotated[
    IdentityCodec
    | PruneCodec
    | RandomProjectionCodec
    | CountSketchCodec
    | TopKCodec
    | RowPcaCodec
    | PublicSubspaceCodec
    | AutoencoderCodec,
    Field(discriminator="kind"),
]
