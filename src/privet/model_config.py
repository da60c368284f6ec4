"""The ``model`` section of a configuration: which language model, in which number format, on which device."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from privet.config_section import Section

EMBEDDED_MODEL = "smollm2-135m-instruct"
SMALL_MODEL = "small"


def split_revision(model: str) -> tuple[str, str | None]:
    """Name and revision of ``NAME@REVISION``, as a site's file writes a hub model; no revision where none stands."""
    name, at, revision = model.partition("@")
    return (name, revision) if at and revision and not name.startswith((".", "/", "~")) else (model, None)


class ModelConfig(Section):
    """A causal language model and how it is loaded. Nothing here affects privacy."""

    name: str = Field(
        default=EMBEDDED_MODEL,
        min_length=1,
        description=(
            "`smollm2-135m-instruct` (embedded, see `privet fetch`), `small` (a tiny Llama trained on this "
            "machine, for tests), a folder in Hugging Face format, a `.gguf` file, or a hub name."
        ),
    )
    revision: str | None = Field(
        default=None,
        description="Commit or tag of a hub model. Pin it: a hub name alone can change under you.",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description=(
            "Number format of the frozen base model. `auto` is bfloat16 where the hardware multiplies it "
            "faster (AMX, AMD's avx512_bf16, ARM's bf16, a GPU with bf16), else float32. Adapters are always float32."
        ),
    )
    quantization: Literal["none", "8bit", "4bit"] = Field(
        default="none",
        description="Weights of the base model in 8 or 4 bits through bitsandbytes; needs a GPU.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto",
        description="Where the model runs; `auto` is the first GPU, or the processor without one.",
    )

    @model_validator(mode="after")
    def _quantization_needs_gpu(self) -> ModelConfig:
        if self.quantization != "none" and self.device == "cpu":
            raise ValueError(f"quantization '{self.quantization}' needs device 'cuda' or 'auto', not 'cpu'")
        return self
