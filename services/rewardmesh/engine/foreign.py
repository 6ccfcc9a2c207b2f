"""What all engines share that do not hold the weights themselves: the model directory is read for everything but its weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from transformers import AutoConfig

from rewardmesh.engine.interface import Ability, NotSupportedError, ServedModel
from rewardmesh.engine.loading import MANIFEST, Kind, LoadError, check_manifest, fingerprint, read_tokenizer
from rewardmesh.engine.log_probs import Extra
from rewardmesh.serving.config import describe_errors
from rewardmesh.serving.errors import ItemsLostError
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb

ABILITIES: dict[Kind, frozenset[Ability]] = {
    "classification": frozenset(("scores",)),
    "causal": frozenset(("token_statistics", "label_log_probs", "sample", "write")),
}
"""What a model with each head is asked, where the engine can do all of it."""


class EngineOptions(BaseModel):
    """Settings of an engine, from `engine_options`; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Options = TypeVar("Options", bound=EngineOptions)


def read_options(options: type[Options], given: dict[str, Any]) -> Options:
    """Check `engine_options`.

    Raises:
        LoadError: an unknown name or a wrong value; names it.
    """
    try:
        return options.model_validate(given)
    except ValidationError as error:
        raise LoadError(describe_errors(error, "engine_options", options)) from error


class RefusedError(ItemsLostError, NotSupportedError):
    """The engine cannot do what was asked of some items; in a reply each of them is NOT_APPLICABLE with this message."""

    def __init__(self, message: str, items: int) -> None:
        super().__init__([absence(pb.ABSENCE_REASON_NOT_APPLICABLE, message)] * items)


class ForeignModel(ServedModel):
    """A model that another engine computes; its directory gives tokenizer, context length, vocabulary and head.

    Args:
        source: model directory or hub name.
        extras: whatever else the scores depend on, for the fingerprint.

    Raises:
        LoadError: no config or tokenizer there, or the head is not of the kind wanted.
    """

    packed = False

    def __init__(self, source: str, kind: Kind, *, name: str, version: int, extras: Iterable[str] = ()) -> None:
        directory = Path(source)
        if directory.is_absolute() and not (directory / "config.json").is_file():
            raise LoadError(f"{source}: has no config.json; give a Hugging Face model directory (save_pretrained) or a hub name")
        if (directory / MANIFEST).exists():
            check_manifest(directory)
        try:
            self.config: Any = AutoConfig.from_pretrained(source)
            self.tokenizer = read_tokenizer(source)
        except Exception as error:  # transformers and tokenizers raise whatever a corrupt file leads them to
            raise LoadError(f"{source}: cannot be read: {type(error).__name__}: {error}") from error
        check_head(source, self.config, kind)
        self.source = source
        self.kind = kind
        self.name = name
        self.version = version
        self.fingerprint = fingerprint(source, extras)
        self.abilities = ABILITIES[kind]
        self.reason = f"computed by {self.engine}"

    @property
    def max_tokens(self) -> int:
        """Longest input in tokens."""
        return int(getattr(self.config, "max_position_embeddings", 2**31 - 1))

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""
        return int(self.config.vocab_size)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end a completion, by the model's config and its tokenizer."""
        configured = getattr(self.config, "eos_token_id", None)
        ids = set(configured if isinstance(configured, list) else [configured])
        return tuple(sorted(i for i in ids | {self.tokenizer.eos_token_id} if i is not None))

    @property
    def output_names(self) -> tuple[str, ...]:
        """The head's labels, by the model's config."""
        if self.kind != "classification":
            return ()
        return tuple(str(self.config.id2label[i]) for i in range(self.config.num_labels))

    def check_statistics(self, items: int, *, temperature: float, extras: Collection[Extra]) -> None:
        """Refuse statistics that only the whole distribution gives.

        Raises:
            RefusedError: a temperature other than 1, entropy, self-certainty.
        """
        if temperature != 1:
            message = f"the {self.engine} engine of model {self.name!r} gives log-probabilities at temperature 1 only, not {temperature:g}"
            raise RefusedError(f"{message}; serve it with engine: transformers for others", items)
        missing = sorted(set(extras) - {"margin"})
        if missing:
            message = f"the {self.engine} engine of model {self.name!r} does not tell {' and '.join(missing)}"
            raise RefusedError(f"{message}, which take the whole distribution; serve it with engine: transformers", items)


def check_head(source: str, config: Any, kind: Kind) -> None:
    """Raise LoadError unless the architecture has the head that is wanted: an engine might else make one of random numbers."""
    architectures = list(getattr(config, "architectures", None) or ())
    classifies = any("SequenceClassification" in name or "RewardModel" in name for name in architectures)
    if not architectures or classifies != (kind == "classification"):
        found = ", ".join(architectures) or "no architecture"
        raise LoadError(f"{source}: config.json names {found}, which is no {kind} model")
