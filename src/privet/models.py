"""Loading a causal language model and its tokenizer: embedded, folder, GGUF file or hub name.

- Nothing of a model's repository is executed: remote code is never trusted, and pickled weights are read as
  tensors only.
- Weights that are missing from a file are an error, where the library would fill them in at random.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privet.cache import MANIFEST, read_manifest, sha256_file
from privet.errors import PrivetError
from privet.fetch import Progress, forget_quantization, smollm2_dir
from privet.hardware import choose_device, choose_dtype
from privet.lora import default_targets
from privet.model_config import EMBEDDED_MODEL, SMALL_MODEL, ModelConfig

if TYPE_CHECKING:
    from privet.tokenise import Tokenizer

_HASH_WHOLE = 4 * 2**30
_SAMPLE = 2**20
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILES = ("*.safetensors", "*.bin", "*.gguf", "*.json", "*.jinja", "*.txt", "*.model")


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A frozen base model, ready for adapters.

    Attributes:
        model: The ``transformers`` model in evaluation mode; no parameter asks for a gradient.
        tokenizer: Its tokenizer, with a padding token.
        name: As the configuration gives it.
        fingerprint: SHA-256 (hexadecimal) over weights, configuration, tokenizer, number format and
            quantisation: two models with the same fingerprint compute the same.
        dtype: ``float32`` or ``bfloat16``.
        device: ``cpu`` or ``cuda``.
        notes: What the loader decided that a person should know.
    """

    model: Any
    tokenizer: Tokenizer
    name: str
    fingerprint: str
    dtype: str
    device: str
    notes: tuple[str, ...] = field(default=())

    @property
    def pad_id(self) -> int:
        """Token that fills batches; its positions are masked everywhere."""
        assert self.tokenizer.pad_token_id is not None, "load_model sets a padding token"
        return self.tokenizer.pad_token_id

    @property
    def positions(self) -> int | None:
        """Most tokens of a text; ``None`` where the model sets no limit, as with ALiBi.

        Beyond it a model raises, or (``rope_type: dynamic``) is another model from then on.
        """
        config = self.model.config.get_text_config()
        found = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
        return None if found is None else int(found)

    def target_modules(self) -> tuple[str, ...]:
        """Layers that carry adapters when the configuration names none.

        Raises:
            PrivetError: if the family is unknown.
        """
        linear = {
            name.rpartition(".")[2]
            for name, module in self.model.named_modules()
            if getattr(getattr(module, "weight", None), "ndim", 0) == 2
        }
        return default_targets(sorted(linear))


def load_model(config: ModelConfig, progress: Progress | None = None) -> LoadedModel:
    """Load model and tokenizer as ``config`` says, fetching the embedded model on first use.

    Args:
        config: The ``model`` section.
        progress: Told what goes on when something has to be fetched or trained first.

    Raises:
        PrivetError: if there is no such model, it cannot be read, is no causal language model, lacks weights,
            has no usable tokenizer, or asks for hardware that is not there.
    """
    import torch

    device = choose_device(config)
    dtype = choose_dtype(config, device)
    source = resolve(config, progress)
    options = _options(config, source)
    if isinstance(source, str):
        options["revision"] = _commit(config, options)
    tokenizer, notes = _load_tokenizer(config, options)
    model = _load_weights(config, options, getattr(torch, dtype), device)
    digest = f"{source}@{options['revision']}" if isinstance(source, str) else _fingerprint(config, source)
    fingerprint = hashlib.sha256(f"{digest}/{dtype}/{config.quantization}".encode()).hexdigest()
    return LoadedModel(model, tokenizer, config.name, fingerprint, dtype, device, tuple(notes))


def resolve(config: ModelConfig, progress: Progress | None = None) -> Path | str:
    """Where a model is: a folder, a GGUF file, or a hub name as it stands.

    Raises:
        PrivetError: if nothing is at a path, or the embedded model cannot be fetched.
    """
    if config.name == EMBEDDED_MODEL:
        return smollm2_dir(progress)
    if config.name == SMALL_MODEL:
        from privet.small_model import small_model_dir

        return small_model_dir(progress)
    path = Path(config.name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise PrivetError(
                "this folder holds no model",
                field="model.name",
                given=config.name,
                allowed="a folder with config.json, weights and tokenizer, as `save_pretrained` writes it",
            )
        return path
    if path.is_file():
        if path.suffix != ".gguf":
            raise PrivetError(
                "a model is a folder or a GGUF file",
                field="model.name",
                given=config.name,
                hint="name the folder that the file is in",
            )
        return path
    if config.name.startswith((".", "/", "~")) or config.name.count("/") > 1 or path.suffix == ".gguf":
        raise PrivetError(
            "there is nothing at this path", field="model.name", given=config.name, hint="check the path"
        )
    return config.name


def _options(config: ModelConfig, source: Path | str) -> dict[str, Any]:
    if isinstance(source, Path) and source.is_file():
        return {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    where = {"pretrained_model_name_or_path": str(source), "revision": config.revision or "main"}
    return {**where, "trust_remote_code": False}  # else transformers asks whoever is at the terminal


def _load_tokenizer(config: ModelConfig, options: dict[str, Any]) -> tuple[Any, list[str]]:
    from transformers import AutoTokenizer

    with _readable(config, "tokenizer"), _quiet(options):
        tokenizer = AutoTokenizer.from_pretrained(**options)
    notes = []
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise PrivetError(
                "the tokenizer has neither a padding nor an end-of-text token",
                field="model.name",
                given=config.name,
                hint="add pad_token to the model's tokenizer_config.json; any token will do: it is masked",
            )
        tokenizer.pad_token = tokenizer.eos_token
        notes.append("the tokenizer has no padding token: end-of-text pads instead, masked everywhere")
    return tokenizer, notes


def _load_weights(config: ModelConfig, options: dict[str, Any], dtype: Any, device: str) -> Any:
    from transformers import AutoModelForCausalLM

    if config.quantization != "none":
        options = options | {"quantization_config": _quantization(config), "device_map": {"": 0}}
    with _readable(config, "model"), _quiet(options):
        model, info = AutoModelForCausalLM.from_pretrained(**options, dtype=dtype, output_loading_info=True)
    if getattr(model, "peft_config", None):
        raise PrivetError(
            "this is an adapter with the name of its base model in it, or a base model with an adapter beside it",
            field="model.name",
            given=config.name,
            allowed="a base model",
            hint="name the base model itself; merge an adapter into it first, if it is to be part of it",
        )
    missing = sorted(info.get("missing_keys", ()))
    if missing:
        raise PrivetError(
            f"the weights of {len(missing)} tensors are missing",
            field="model.name",
            given=f"{config.name} lacks {', '.join(missing[:5])}",
            hint="fetch the model again; a model with weights made up at random is of no use",
        )
    if "gguf_file" in options:
        forget_quantization(model)
    if config.quantization == "none":
        model = model.to(device)
    return model.eval().requires_grad_(False)


def _quantization(config: ModelConfig) -> Any:
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise PrivetError(
            "8-bit and 4-bit weights need the package bitsandbytes",
            field="model.quantization",
            given=config.quantization,
            hint="pip install bitsandbytes",
        )
    return BitsAndBytesConfig(**{f"load_in_{config.quantization}": True})


@contextlib.contextmanager
def _readable(config: ModelConfig, what: str) -> Iterator[None]:
    """Turn what the libraries raise about unreadable models into one clear error."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        is_path = Path(config.name).expanduser().exists() or config.name in (EMBEDDED_MODEL, SMALL_MODEL)
        raise PrivetError(
            f"the {what} cannot be loaded: {text[:300]}",
            field="model.name",
            given=config.name,
            allowed="a causal language model that the installed transformers library knows",
            hint="run `privet fetch` to check the embedded models; for your own folder, copy it again"
            if is_path
            else "check the name, the network and, for gated models, `hf auth login`; or name a local folder",
        ) from error


@contextlib.contextmanager
def _quiet(options: dict[str, Any]) -> Iterator[None]:
    """Keep the libraries' progress bars off the screen, where nothing is downloaded that could take long.

    They cannot all be turned off; what they write to stderr can be caught.
    """
    local = Path(options["pretrained_model_name_or_path"]).is_dir()
    with contextlib.redirect_stderr(io.StringIO()) if local else contextlib.nullcontext():
        yield


def _commit(config: ModelConfig, options: dict[str, Any]) -> str:
    """The commit that a hub's revision stands for now: it names the content, where a branch names whatever comes.

    Raises:
        PrivetError: if it cannot be found out.
    """
    from transformers.utils import cached_file

    name, revision = options["pretrained_model_name_or_path"], options["revision"]
    with _readable(config, "model"):
        found = cached_file(name, "config.json", revision=revision)
    commit = Path(found).parent.name if found else ""
    if not _COMMIT.fullmatch(commit):
        raise PrivetError(
            "this revision of the model names no commit",
            field="model.revision",
            given=revision,
            hint="without one, parties could train different models under one name; copy the model to a folder",
        )
    return commit


def _fingerprint(config: ModelConfig, source: Path) -> str:
    if source.is_file():
        return sha256_file(source)
    # What a folder says of itself is believed of those alone that this package wrote.
    if config.name in (EMBEDDED_MODEL, SMALL_MODEL) and (manifest := read_manifest(source)):
        return json.dumps(
            {name: facts["sha256"] for name, facts in manifest["files"].items()}, sort_keys=True
        )
    found = {path for pattern in _FILES for path in source.glob(pattern) if path.is_file()}
    paths = sorted(path for path in found if path.name != MANIFEST)
    whole = sum(path.stat().st_size for path in paths) <= _HASH_WHOLE
    return json.dumps({path.name: sha256_file(path) if whole else _sampled(path) for path in paths})


def _sampled(path: Path) -> str:
    """Size, time and both ends of a file: reading all of a large model would take longer than loading it."""
    facts = path.stat()
    with path.open("rb") as file:
        head = file.read(_SAMPLE)
        file.seek(max(facts.st_size - _SAMPLE, 0))
        ends = hashlib.sha256(head + file.read(_SAMPLE)).hexdigest()
    return f"{facts.st_size}/{facts.st_mtime_ns}/{ends}"
