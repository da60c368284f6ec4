"""What the processor and the graphics card can do, and the number format that follows from it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from privet.errors import PrivetError
from privet.model_config import ModelConfig

DtypeName: TypeAlias = Literal["float32", "bfloat16"]

_SHOWN = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "avx512_fp16", "bf16", "asimd", "sve")
_FAST_BF16 = frozenset({"amx_bf16", "bf16"})  # the last is ARM's name


@dataclass(frozen=True)
class CpuFeatures:
    """The processor.

    Attributes:
        name: As it calls itself.
        cores: Processors that this process may use.
        features: Those of its instruction sets that matter here.
        vendor: As it calls itself; empty where it does not.
    """

    name: str
    cores: int
    features: tuple[str, ...]
    vendor: str = ""

    @property
    def fast_bf16(self) -> bool:
        """Whether it multiplies bfloat16 matrices faster than float32 ones.

        Emulated, bfloat16 is the slower. So it is on Intel's processors with ``avx512_bf16`` and without AMX, which
        multiply in it natively at half the rate of float32 (Xeon of model 207: 65 to 80 against 110 to 135 GFLOP/s a
        core, oneDNN 3.12; a training step takes 1.36 times as long). AMD's have more than twice float32's rate.
        """
        if "avx512_bf16" in self.features and self.vendor == "AuthenticAMD":
            return True
        return not _FAST_BF16.isdisjoint(self.features)


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> CpuFeatures:
    """The processor of this machine; without ``/proc/cpuinfo`` its instruction sets stay unknown (empty).

    Args:
        cpuinfo: Where Linux describes the processor.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    pairs = [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]
    facts = dict(reversed(pairs))
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    name = facts.get("model name") or platform.processor() or platform.machine()
    shown = tuple(flag for flag in _SHOWN if flag in flags)
    return CpuFeatures(name, usable_cores(), shown, facts.get("vendor_id", ""))


def usable_cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_device(config: ModelConfig) -> Literal["cpu", "cuda"]:
    """The device that ``config`` stands for on this machine.

    Raises:
        PrivetError: if a GPU is asked for, directly or by quantisation, and there is none.
    """
    import torch

    has_gpu = torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise PrivetError(
            "there is no GPU that torch can use",
            field="model.device",
            given="cuda",
            allowed="cpu or auto on this machine",
            hint="install a CUDA build of torch if the machine has a GPU",
        )
    if config.quantization != "none" and not has_gpu:
        raise PrivetError(
            "8-bit and 4-bit weights need a GPU, and torch sees none",
            field="model.quantization",
            given=config.quantization,
            allowed="none on this machine",
            hint="set model.quantization to none; dtype bfloat16 halves the memory of float32",
        )
    return "cuda" if has_gpu and config.device != "cpu" else "cpu"


def choose_dtype(config: ModelConfig, device: Literal["cpu", "cuda"]) -> DtypeName:
    """The base model's number format; ``auto`` is bfloat16 where ``device`` is faster in it."""
    if config.dtype != "auto":
        return config.dtype
    if device == "cuda":
        import torch

        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if cpu_features().fast_bf16 else "float32"
