"""What a judge's model writes, in batches: the work items, their computation on the engine's thread, and their bytes in a cache."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import threading
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from rewardmesh.engine.cached import model_keys
from rewardmesh.engine.interface import NotSupportedError, ServedModel
from rewardmesh.engine.writing import WritingOptions, Written
from rewardmesh.serving.batching import Work
from rewardmesh.serving.caching import CorruptValueError
from rewardmesh.serving.deadlines import wanted_until
from rewardmesh.serving.errors import ItemsLostError
from rewardmesh.serving.validation import absence
from rewardmesh.v1 import common_pb2 as pb

Prompt = tuple[Sequence[int], str]
"""Token ids, and the identity of the prompt for the random streams."""


@dataclass(frozen=True)
class Lane:
    """What is written together: one version of the model, one way to write.

    Attributes:
        loose: whether an engine that cannot follow the grammar writes without: whoever asks can read that too.
    """

    model: ServedModel
    options: WritingOptions
    loose: bool


def text_work(
    service: str,
    model: ServedModel,
    options: WritingOptions,
    ids: Sequence[int],
    place: str,
    group: Hashable,
    *,
    keep: bool,
    loose: bool,
) -> Work[Prompt]:
    """A prompt to go on from.

    Args:
        place: what tells its random stream from those of equal prompts.
        keep: whether its texts may be kept and answer another call: they are greedy, or a seed names them.
        loose: see `Lane`.
    """
    sampled = options.temperature > 0
    settings = dataclasses.replace(options, seed=options.seed if sampled else 0)
    row = f"{place}:{hashlib.blake2b(np.asarray(ids, '<i8').tobytes(), digest_size=16).hexdigest()}"
    keys = model_keys(service, model, "texts", options=repr(settings))
    return Work(
        (ids, row),
        lane=Lane(model, settings, loose),
        group=group,
        tokens=len(ids) + options.n * options.max_tokens,
        key=keys.key(ids, context=row.encode() if sampled else b"") if keep else None,
    )


def write_texts(lane: Hashable, prompts: Sequence[Prompt]) -> list[tuple[list[Written], int]]:
    """The n texts of each prompt, and the tokens computed for it; runs on the engine's thread."""
    where = cast(Lane, lane)
    try:
        texts = _write(where.model, prompts, where.options)
    except NotSupportedError as error:
        if where.loose and where.options.grammar:
            texts = _write(where.model, prompts, dataclasses.replace(where.options, grammar=None))
        elif isinstance(error, ItemsLostError):
            raise
        else:
            raise ItemsLostError([absence(pb.ABSENCE_REASON_NOT_APPLICABLE, str(error))] * len(prompts)) from error
    return [(found, sum(each.tokens_read + each.tokens_written for each in found)) for found in texts]


def _write(model: ServedModel, prompts: Sequence[Prompt], options: WritingOptions) -> list[list[Written]]:
    """Write for as long as anybody wants it: texts that nobody waits for any more must not hold the thread."""
    left = wanted_until() - time.monotonic()
    cancelled = threading.Event()
    timer = threading.Timer(max(left, 0.0), cancelled.set) if left < math.inf else None
    if timer:
        timer.daemon = True
        timer.start()
    try:
        return model.write([ids for ids, _ in prompts], options, row_keys=[row for _, row in prompts], cancelled=cancelled)
    finally:
        if timer:
            timer.cancel()


class WrittenCodec:
    """Lists of `Written` as JSON; texts that did not end by themselves or at their limit are not kept."""

    kind = 3

    def encode(self, value: list[Written]) -> bytes | None:
        """See `Codec`."""
        if any(each.finish not in ("stop", "length") for each in value):
            return None
        return json.dumps([dataclasses.astuple(each) for each in value]).encode()

    def decode(self, data: bytes) -> list[Written]:
        """See `Codec`."""
        try:
            rows = json.loads(data)
            return [Written(str(text), finish, int(read), int(written)) for text, finish, read, written in rows]
        except (ValueError, TypeError) as error:
            raise CorruptValueError(f"{len(data)} bytes are no written texts: {error}") from error
