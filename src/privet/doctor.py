"""``privet doctor``: does this machine have what a run needs, does it work, and how is it mended if not?

Nothing is believed because it is installed: packages are imported, a sum is encrypted and opened, a keystream is
compared with its published test vector, an epsilon with its closed form, and a tiny model takes a training step.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from privet.errors import PrivetError

Status = Literal["ok", "warning", "failed"]

REQUIRED = {
    "torch": "torch", "transformers": "transformers", "peft": "peft", "safetensors": "safetensors",
    "tokenizers": "tokenizers", "gguf": "gguf", "numpy": "numpy", "scipy": "scipy", "mpmath": "mpmath",
    "dp-accounting": "dp_accounting", "cryptography": "cryptography", "pycryptodome": "Crypto", "tenseal": "tenseal",
    "jinja2": "jinja2", "matplotlib": "matplotlib",
}  # fmt: skip
OPTIONAL = {
    "pyarrow": ("pyarrow", "Parquet files", "privet[data]"),
    "datasets": ("datasets", "Hugging Face data sets", "privet[data]"),
    "lm-eval": ("lm_eval", "privet evaluate --task lm_eval:…", "privet[eval]"),
    "nvflare": ("nvflare", "runs over several machines", "privet[distributed]"),
}
NEEDED_DISK, COMFORTABLE_DISK = 500_000_000, 3_000_000_000
COMFORTABLE_MEMORY = 4_000_000_000
# NIST SP 800-38A, F.5.5: CTR-AES256, first block.
AES_KEY = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"
AES_COUNTER = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"
AES_BLOCKS = ("6bc1bee22e409f96e93d7e117393172a", "601ec313775789a5b7a7f504bbf3d228")
# Gaussian, sigma 1, one release, delta 1e-5, zero-out: the closed form of Balle and Wang, ICML 2018, Theorem 8.
KNOWN_EPSILON = 4.377178


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: What was looked at.
        status: ``ok``, ``warning`` (a run may still work) or ``failed`` (something that is needed does not work).
        detail: What was found.
        mend: What to do about it; empty where nothing is to be done.
    """

    name: str
    status: Status
    detail: str
    mend: str = ""


def examine(tell: Callable[[str], None] = lambda name: None) -> list[Finding]:
    """Run every check; none of them stops the others.

    Args:
        tell: Told what is looked at next.
    """
    found: list[Finding] = []
    for name, check in CHECKS:
        tell(name)
        try:
            found += check()
        except Exception as error:  # A broken installation fails in ways that nobody can list.
            kind = type(error).__name__
            found.append(
                Finding(name, "failed", f"{kind}: {_first_line(error)}", "see the line above; `pip check`")
            )
    return found


def healthy(found: Iterable[Finding]) -> bool:
    """Whether nothing that is needed failed."""
    return all(finding.status != "failed" for finding in found)


def as_dict(found: list[Finding]) -> dict[str, Any]:
    """For ``--json``."""
    return {"schema": 1, "healthy": healthy(found), "findings": [asdict(finding) for finding in found]}


def _python() -> list[Finding]:
    return [
        Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    ]


def _packages() -> list[Finding]:
    found = [_imported(package, module, needed=True) for package, module in REQUIRED.items()]
    for package, (module, use, extra) in OPTIONAL.items():
        finding = _imported(package, module, needed=False)
        if finding.detail == "not installed":
            finding = Finding(
                package, "ok", f"not installed; only for {use}", f"pip install '{extra}' if you need it"
            )
        found.append(finding)
    return found


def _imported(package: str, module: str, *, needed: bool) -> Finding:
    bad: Status = "failed" if needed else "warning"
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return Finding(package, bad, "not installed", f"pip install {package}, or install privet again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except Exception as error:  # A compiled package can fail with anything when its libraries are missing.
        again = f"pip install --force-reinstall {package}=={version}"
        return Finding(package, bad, f"{version} cannot be imported: {_first_line(error)}", again)
    return Finding(package, "ok", version)


def _processor() -> list[Finding]:
    from privet.hardware import cpu_features

    cpu = cpu_features()
    features = ", ".join(cpu.features) or "none of the instruction sets that matter here"
    chosen = "bfloat16" if cpu.fast_bf16 else "float32, which this processor multiplies faster than bfloat16"
    return [
        Finding("processor", "ok", f"{cpu.name}, {cpu.cores} cores, {features}"),
        Finding("number format", "ok", f"model.dtype auto means {chosen}"),
    ]


def _memory() -> list[Finding]:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    facts = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    free = facts.get("MemAvailable", 0)
    detail = f"{free / 1e9:.1f} GB free of {facts.get('MemTotal', 0) / 1e9:.1f} GB"
    if free < COMFORTABLE_MEMORY:
        return [
            Finding(
                "memory", "warning", detail, "close other programs; engine.cache_mebibytes bounds the cache"
            )
        ]
    return [Finding("memory", "ok", detail)]


def _keystream() -> list[Finding]:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    cipher = Cipher(algorithms.AES(bytes.fromhex(AES_KEY)), modes.CTR(bytes.fromhex(AES_COUNTER))).encryptor()
    if cipher.update(bytes.fromhex(AES_BLOCKS[0])).hex() != AES_BLOCKS[1]:
        wrong = "the published test vector does not come out"
        return [Finding("AES-256-CTR", "failed", wrong, "pip install --force-reinstall cryptography")]
    return [Finding("AES-256-CTR", "ok", "agrees with NIST SP 800-38A, F.5.5")]


def _encryption() -> list[Finding]:
    import tenseal

    context = tenseal.context(tenseal.SCHEME_TYPE.BFV, poly_modulus_degree=4096, plain_modulus=1032193)
    first, second = [1, -2, 300_000], [5, 2, -700]
    opened = (tenseal.bfv_vector(context, first) + tenseal.bfv_vector(context, second)).decrypt()
    if list(opened) != [a + b for a, b in zip(first, second, strict=True)]:
        mend = "pip install --force-reinstall tenseal; until then use sealing masked"
        return [Finding("BFV encryption", "failed", "an encrypted sum opened wrongly", mend)]
    return [Finding("BFV encryption", "ok", "encrypted, added and opened exactly")]


def _accountant() -> list[Finding]:
    from privet.privacy.accountants import accountant_version, compute
    from privet.privacy.events import Release

    value = compute([Release("check", 1.0)], 1e-5).value
    if abs(value - KNOWN_EPSILON) > 1e-5:
        wrong = f"epsilon {value:.6f} where {KNOWN_EPSILON} is right"
        return [
            Finding("accountant", "failed", wrong, "pip install --force-reinstall 'dp-accounting>=0.6,<0.7'")
        ]
    return [Finding("accountant", "ok", f"{accountant_version()} agrees with the closed form")]


def _training() -> list[Finding]:
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from privet.lora import LoraSpec
    from privet.train import Backbone

    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **shape)).eval()
    backbone = Backbone(model, LoraSpec(rank=2))
    example = _Example("doctor", np.arange(1, 9), np.array([True] * 7 + [False]))
    flat = backbone.initial_flat()
    backbone.set_flat(flat)
    before = float(backbone.losses([example])[0])
    gradient = next(backbone.per_unit_gradients([example], 1))[1][0]
    backbone.set_flat((flat - 0.5 * gradient / np.linalg.norm(gradient)).astype(np.float32))
    after = float(backbone.losses([example])[0])
    device = "a GPU is there" if torch.cuda.is_available() else "no GPU, which is fine for small models"
    if not after < before:
        wrong = f"a step along the gradient took the loss from {before:.4f} to {after:.4f}"
        return [Finding("training step", "failed", wrong, "pip install --force-reinstall torch transformers")]
    return [Finding("training step", "ok", f"loss {before:.4f} → {after:.4f}; {device}")]


@dataclass(frozen=True)
class _Example:
    """One tokenised record."""

    id: str
    input_ids: Any
    supervised: Any


def _cache() -> list[Finding]:
    from privet.cache import cache_dir
    from privet.fetch import fetched

    missing = [name for name, there in fetched().items() if not there]
    if missing:
        detail, mend = (
            f"{', '.join(missing)} not in {cache_dir()} yet",
            "privet fetch all (about 100 MB, needs a network)",
        )
        return [Finding("embedded model and data", "warning", detail, mend)]
    return [Finding("embedded model and data", "ok", f"complete in {cache_dir()}")]


def _disk() -> list[Finding]:
    from privet.cache import cache_dir

    found = []
    for name, wanted in (("disk of the cache", cache_dir()), ("disk of this folder", Path.cwd())):
        folder = next(path for path in (wanted, *wanted.parents) if path.exists())
        free = shutil.disk_usage(folder).free
        detail = f"{free / 1e9:.1f} GB free at {folder}"
        mend = "free some space, or set PRIVET_CACHE to a folder on a larger disk"
        if free < NEEDED_DISK:
            found.append(Finding(name, "failed", detail, mend))
        elif free < COMFORTABLE_DISK:
            found.append(Finding(name, "warning", detail, mend))
        elif not os.access(folder, os.W_OK):
            found.append(
                Finding(name, "failed", f"{folder} is not writable", "mend its rights, or set PRIVET_CACHE")
            )
        else:
            found.append(Finding(name, "ok", detail))
    return found


def _first_line(error: BaseException) -> str:
    if isinstance(error, PrivetError):
        return error.message
    return next(iter(str(error).splitlines()), "no message")[:200]


CHECKS: tuple[tuple[str, Callable[[], list[Finding]]], ...] = (
    ("python", _python),
    ("packages", _packages),
    ("processor", _processor),
    ("memory", _memory),
    ("AES-256-CTR", _keystream),
    ("BFV encryption", _encryption),
    ("accountant", _accountant),
    ("training step", _training),
    ("embedded model and data", _cache),
    ("disk", _disk),
)
