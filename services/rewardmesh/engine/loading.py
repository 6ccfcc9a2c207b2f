"""Model directories: read them strictly, fingerprint them, write them atomically.

A directory without weights, or whose weights do not fill the model, is refused: transformers would otherwise fill the gap with random
numbers and serve them as scores.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils.logging import disable_progress_bar

from rewardmesh.engine.constrained import Grammars
from rewardmesh.engine.forward import (
    classification_outputs,
    classification_readings,
    classification_scores,
    has_classification_head,
    is_native,
    use_native,
    use_torch,
    why_not_packed,
)
from rewardmesh.engine.interface import Ability, Pair, ServedModel
from rewardmesh.engine.linear import use_linear
from rewardmesh.engine.log_probs import Extra, TokenStatistics, completion_statistics, next_token_log_probs, why_no_logits
from rewardmesh.engine.packing import MIN_SHARED_TOKENS, TokenIds
from rewardmesh.engine.prefix_cache import PrefixCache
from rewardmesh.engine.sampling import Sampled, SamplingOptions, sample
from rewardmesh.engine.writing import WritingOptions, Written
from rewardmesh.engine.written import Texts, sampling_options, stop_rule, with_room
from rewardmesh.serving.logs import get_logger

log = get_logger(__name__)

# A server's log and the demo's own progress bars are no place for bars about reading one file.
disable_progress_bar()

Kind = Literal["causal", "classification"]
MANIFEST = "manifest.json"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class LoadError(Exception):
    """A model directory that cannot be served; the message names the path and the remedy."""


@dataclass(frozen=True, eq=False)
class LoadedModel(ServedModel):
    """One version of one model in the memory of this process, computed by transformers and our packed forward.

    Attributes:
        model, tokenizer: transformers objects; the model is in evaluation mode.
        packed: whether the forward pass shares prompts; else `reason` says why not.
        prefixes: keys and values of prefixes that earlier batches shared; None keeps none.
        computed_by_reason: why the compiled library does not compute the packed forward.
        attention: what the model attends with when it is not packed, by transformers' name.
    """

    name: str
    version: int
    fingerprint: str
    model: Any
    tokenizer: Any
    device: torch.device
    packed: bool
    reason: str
    prefixes: PrefixCache | None = None
    computed_by_reason: str = field(default="", kw_only=True)
    attention: str = field(default="sdpa", kw_only=True)

    engine = "transformers"

    @property
    def computed_by(self) -> str:  # type: ignore[override]  # found from the model, never set
        """ "native" or "torch"."""
        return "native" if is_native(self.model) else "torch"

    @property
    def batch_invariant(self) -> bool:  # type: ignore[override]  # found from the model, never set
        """The compiled library sums everything in one order."""
        return is_native(self.model) and "scores" in self.abilities

    @property
    def abilities(self) -> frozenset[Ability]:  # type: ignore[override]  # found from the model, never set
        """Scores with a classification head, everything else with a language-model head."""
        if has_classification_head(self.model):
            return frozenset(("scores", "token_scores"))
        return frozenset(("token_statistics", "label_log_probs", "sample", "write"))

    @property
    def max_tokens(self) -> int:
        """Longest input in tokens."""
        return int(getattr(self.model.config, "max_position_embeddings", 2**31 - 1))

    @property
    def dtype(self) -> str:
        """Name of the weights' type."""
        return str(next(self.model.parameters()).dtype).removeprefix("torch.")

    @property
    def device_name(self) -> str:
        """Where the weights are."""
        return str(self.device)

    @property
    def parameters(self) -> int:
        """How many there are."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding, which may be more than the tokenizer's tokens."""
        return int(self.model.config.vocab_size)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end a completion, by the model's config and its tokenizer."""
        configured = getattr(self.model.config, "eos_token_id", None)
        ids = set(configured if isinstance(configured, list) else [configured])
        return tuple(sorted(i for i in ids | {self.tokenizer.eos_token_id} if i is not None))

    @property
    def output_names(self) -> tuple[str, ...]:
        """The head's labels, by the model's config."""
        if "scores" not in self.abilities:
            return ()
        return tuple(str(self.model.config.id2label[i]) for i in range(classification_outputs(self.model)))

    def shareable(self, tokens: int) -> int:
        """How many tokens of a common prefix the forward pass really computes once."""
        return tokens if self.packed and tokens >= MIN_SHARED_TOKENS else 0

    def scores(self, sequences: Sequence[TokenIds]) -> list[tuple[list[float], int]]:
        """See `ServedModel`."""
        with torch.inference_mode():
            values, computed = classification_scores(self.model, sequences, packed=self.packed, prefixes=self.prefixes)
        return list(zip(values.tolist(), computed, strict=True))

    def token_scores(self, sequences: Sequence[tuple[TokenIds, int]]) -> list[tuple[list[list[float]], int]]:
        """See `ServedModel`."""
        ids, first = [given for given, _ in sequences], [start for _, start in sequences]
        with torch.inference_mode():
            values, lengths, computed = classification_readings(self.model, ids, first, packed=self.packed, prefixes=self.prefixes)
        return [(part.tolist(), count) for part, count in zip(torch.split(values, lengths), computed, strict=True)]

    def token_statistics(
        self, pairs: Sequence[Pair], *, temperature: float, extras: Collection[Extra], top_k: int
    ) -> list[tuple[TokenStatistics, int]]:
        """See `ServedModel`."""
        with torch.inference_mode():
            stats, computed = completion_statistics(
                self.model, pairs, packed=self.packed, prefixes=self.prefixes, temperature=temperature, extras=extras, top_k=top_k
            )
        return list(zip(stats, computed, strict=True))

    def label_log_probs(self, questions: Sequence[tuple[TokenIds, Sequence[int]]]) -> list[tuple[list[float], int]]:
        """See `ServedModel`."""
        # Questions with several sets of labels may meet in one batch.
        wanted = sorted({token for _, labels in questions for token in labels})
        column = {token: index for index, token in enumerate(wanted)}
        with torch.inference_mode():
            values, computed = next_token_log_probs(
                self.model, [ids for ids, _ in questions], wanted, packed=self.packed, prefixes=self.prefixes
            )
        rows: list[list[float]] = values.tolist()
        return [([row[column[t]] for t in labels], count) for row, (_, labels), count in zip(rows, questions, computed, strict=True)]

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        options: SamplingOptions,
        emit: Callable[[Sampled], None],
        *,
        row_keys: Sequence[str],
        ends: Callable[[list[int]], bool] | None = None,
        cancelled: threading.Event | None = None,
    ) -> None:
        """See `sampling.sample`."""
        sample(self._growing, prompts, options, emit, row_keys=row_keys, ends=ends, cancelled=cancelled)

    def write(
        self, prompts: Sequence[TokenIds], options: WritingOptions, *, row_keys: Sequence[str], cancelled: threading.Event | None = None
    ) -> list[list[Written]]:
        """See `ServedModel`."""
        if not prompts:
            return []
        ids = with_room(prompts, self.max_tokens)
        follow = None
        if (grammar := options.grammar) is not None:
            follow = functools.partial(self._grammars.follower, grammar)
            follow()  # refused before anything is computed
        texts = Texts(self.tokenizer, list(map(len, ids)), options.n, options.stop)
        sample(
            self._growing,
            ids,
            sampling_options(options, self.eos_ids),
            texts.add,
            row_keys=row_keys,
            ends=stop_rule(self.tokenizer, options.stop),
            follow=follow,
            cancelled=cancelled,
        )
        return texts.all()

    @functools.cached_property
    def _growing(self) -> Any:
        """The model with the attention that a growing KV cache takes: the same weights, as other threads go on using the packed one."""
        if not self.packed:
            return self.model
        shared: dict[int, Any] = {id(tensor): tensor for tensor in (*self.model.parameters(), *self.model.buffers())}
        shared |= {id(decoder): decoder} if (decoder := getattr(self.model, "native_decoder", None)) is not None else {}
        model = copy.deepcopy(self.model, shared)
        use_torch(model)
        model.set_attn_implementation(self.attention)
        return model

    @functools.cached_property
    def _grammars(self) -> Grammars:
        return Grammars(self.tokenizer, self.vocabulary, self.eos_ids)

    def trim(self) -> None:
        """Forget the keys and values of prefixes."""
        if self.prefixes is not None:
            self.prefixes.clear()


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
        tokenizer = read_tokenizer(source)
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


def read_tokenizer(source: str) -> Any:
    """The tokenizer as it was saved.

    For some architectures (qwen2) AutoTokenizer puts the architecture's own class in the place of a generic tokenizer, and so splits
    text otherwise than the tokenizer that was saved with the model.
    """
    return (PreTrainedTokenizerFast if has_generic_tokenizer(source) else AutoTokenizer).from_pretrained(source)


def has_generic_tokenizer(source: str) -> bool:
    """Whether the tokenizer was saved as one of no architecture's own class."""
    return get_tokenizer_config(source).get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast")


def load_model(
    path: str | Path,
    kind: Kind,
    *,
    name: str,
    version: int,
    device: str = "cpu",
    dtype: str = "float32",
    extras: Iterable[str] = (),
    pack: bool = True,
    prefix_cache_bytes: int = 0,
    batch_invariant: bool = False,
    native: bool = True,
    threads: int = 0,
) -> LoadedModel:
    """Read a model for scoring: packed when its architecture can be, else plainly with the reason.

    Args:
        extras: whatever else its scores depend on (template, rubric), for the fingerprint.
        prefix_cache_bytes: most memory for keys and values of prefixes that batches have in common; 0 keeps none.
        batch_invariant: keep no prefixes where that could change the last bit of a score.
        pack: False for a model that only samples: the packed forward has no growing KV cache.
        native: let the compiled library compute the packed forward where it can; False leaves it to torch.
        threads: CPU threads of the compiled library; 0 for torch's choice.

    Raises:
        LoadError: see `read_model`; a manifest that does not match its files; a language model whose logits are more than its head's.
    """
    directory = Path(path)
    if (directory / MANIFEST).exists():
        check_manifest(directory)
    model, tokenizer = read_model(path, kind, device=device, dtype=dtype)
    use_linear(model)
    if pack and kind == "causal" and (problem := why_no_logits(model)):
        raise LoadError(f"{path}: {type(model).__name__} cannot be served for log-probabilities: {problem}")
    attention = model.config._attn_implementation
    reason = why_not_packed(model) if pack else "sampling uses a KV cache"
    by_torch = reason or ("native: false" if not native else use_native(model, threads))
    if by_torch:
        log.info("computed by torch", model=name, version=version, packed=not reason, reason=by_torch)
    identity = fingerprint(path, extras)
    where = torch.device(device)
    loaded = LoadedModel(
        name, version, identity, model, tokenizer, where, not reason, reason, computed_by_reason=by_torch, attention=attention
    )
    if prefix_cache_bytes and (loaded.batch_invariant or not batch_invariant):
        loaded = replace(loaded, prefixes=PrefixCache(prefix_cache_bytes))
    return loaded


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
