"""Model directories: read them strictly, fingerprint them, write them atomically.

A directory without weights, or whose weights do not fill the model, is refused: transformers would otherwise fill the gap with random
numbers and serve them as scores.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils.logging import disable_progress_bar

from rewardmesh.engine.forward import why_not_packed
from rewardmesh.engine.packing import MIN_SHARED_TOKENS

# A server's log and the demo's own progress bars are no place for bars about reading one file.
disable_progress_bar()

Kind = Literal["causal", "classification"]
MANIFEST = "manifest.json"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class LoadError(Exception):
    """A model directory that cannot be served; the message names the path and the remedy."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """One version of one model in memory.

    Attributes:
        name, version, fingerprint: identity, as in `ModelRef`.
        model, tokenizer: transformers objects; the model is in evaluation mode.
        packed: whether the forward pass shares prompts; else `reason` says why not.
    """

    name: str
    version: int
    fingerprint: str
    model: Any
    tokenizer: Any
    device: torch.device
    packed: bool
    reason: str

    @property
    def max_tokens(self) -> int:
        """Longest input in tokens."""
        return int(getattr(self.model.config, "max_position_embeddings", 2**31 - 1))

    def shareable(self, tokens: int) -> int:
        """How many tokens of a common prefix the forward pass really computes once."""
        return tokens if self.packed and tokens >= MIN_SHARED_TOKENS else 0

    @property
    def dtype(self) -> str:
        """Name of the weights' type."""
        return str(next(self.model.parameters()).dtype).removeprefix("torch.")


def read_model(path: str | Path, kind: Kind, *, device: str = "cpu", dtype: str = "float32") -> tuple[Any, Any]:
    """Read model and tokenizer from a directory or hub name.

    Raises:
        LoadError: missing directory, config, weights or tokenizer; weights that do not match the config.
    """
    if dtype not in _DTYPES:
        raise LoadError(f"dtype {dtype!r} is unknown; one of {', '.join(_DTYPES)}")
    source = str(path)
    if Path(source).is_absolute() and not Path(source, "config.json").is_file():
        raise LoadError(f"{source}: has no config.json; give a Hugging Face model directory (save_pretrained) or a hub name")
    loader = AutoModelForCausalLM if kind == "causal" else AutoModelForSequenceClassification
    try:
        model, info = loader.from_pretrained(source, dtype=_DTYPES[dtype], output_loading_info=True)
        tokenizer = _read_tokenizer(source)
    except Exception as error:  # transformers and tokenizers raise whatever a corrupt file leads them to
        raise LoadError(f"{source}: cannot be loaded: {type(error).__name__}: {error}") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise LoadError(f"{source}: has no tokenizer (tokenizer.json); save it beside the model")
    missing = sorted(info["missing_keys"])
    if missing:
        raise LoadError(f"{source}: the weights lack {len(missing)} tensors, for example {missing[0]}; it is no {kind} model as it stands")
    model.to(device)
    model.eval()
    model.requires_grad_(False)
    return model, tokenizer


def _read_tokenizer(source: str) -> Any:
    """The tokenizer as it was saved.

    For some architectures (qwen2) AutoTokenizer puts the architecture's own class in the place of a generic tokenizer, and so splits
    text otherwise than the tokenizer that was saved with the model.
    """
    declared = get_tokenizer_config(source).get("tokenizer_class")
    generic = declared in ("TokenizersBackend", "PreTrainedTokenizerFast")
    return (PreTrainedTokenizerFast if generic else AutoTokenizer).from_pretrained(source)


def load_model(
    path: str | Path, kind: Kind, *, name: str, version: int, device: str = "cpu", dtype: str = "float32", extras: Iterable[str] = ()
) -> LoadedModel:
    """Read a model for scoring: packed when its architecture can be, else plainly with the reason.

    Args:
        extras: whatever else its scores depend on (template, rubric), for the fingerprint.

    Raises:
        LoadError: see `read_model`; a manifest that does not match its files.
    """
    directory = Path(path)
    if (directory / MANIFEST).exists():
        check_manifest(directory)
    model, tokenizer = read_model(path, kind, device=device, dtype=dtype)
    reason = why_not_packed(model)
    return LoadedModel(name, version, fingerprint(path, extras), model, tokenizer, torch.device(device), not reason, reason)


def fingerprint(path: str | Path, extras: Iterable[str] = ()) -> str:
    """Hash (hex, 16 characters) of weights, config, tokenizer and whatever else the scores depend on."""
    digest = hashlib.sha256()
    directory = Path(path)
    if directory.is_dir():
        for name, checksum in sorted(checksums(directory).items()):
            digest.update(f"{name}={checksum}\n".encode())
    else:
        digest.update(str(path).encode())
    for extra in extras:
        digest.update(b"\0" + extra.encode())
    return digest.hexdigest()[:16]


def checksums(directory: Path) -> dict[str, str]:
    """SHA-256 (hex) of every file of a model directory but the manifest."""
    result = {}
    for file in sorted(directory.iterdir()):
        if file.is_file() and file.name != MANIFEST:
            with file.open("rb") as stream:
                result[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return result


def check_manifest(directory: Path) -> None:
    """Compare a version directory with its manifest.

    Raises:
        LoadError: no manifest, a missing file, a checksum that differs.
    """
    manifest = directory / MANIFEST
    try:
        expected = json.loads(manifest.read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LoadError(f"{manifest}: cannot be read: {error}") from error
    found = checksums(directory)
    wrong = sorted(name for name in expected if found.get(name) != expected[name])
    if wrong:
        raise LoadError(f"{directory}: {', '.join(wrong)} missing or not as the manifest says; the copy is torn")


def write_version(directory: Path, model: Any, tokenizer: Any) -> None:
    """Write a version directory beside its final place, then rename: a reader sees all of it or nothing.

    An existing directory of that name is replaced; it is moved aside first, so that there is never a half-deleted one.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
    replaced = directory.with_name(f".{directory.name}.{os.getpid()}.replaced")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        (partial / MANIFEST).write_text(json.dumps({"files": checksums(partial)}, indent=1))
        if directory.exists():
            directory.rename(replaced)
        partial.rename(directory)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
