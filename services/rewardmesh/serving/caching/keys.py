"""Identity of a computation: BLAKE2b-128 over everything the result depends on, written so that no two inputs look alike.

A key covers the service, the model (its fingerprint and how it is computed), the kind of result with its options, the exact token ids,
and whatever context the caller adds. Every part is written with its length before it, so that tokens cannot move from one part to the
next and leave the key as it was. Another version of the model has another fingerprint: its keys are others, nothing needs to be
forgotten by hand.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

TokenIds: TypeAlias = "Sequence[int] | npt.NDArray[np.integer]"
Option: TypeAlias = "str | int | float | bool | Sequence[int] | Sequence[str] | None"

KEY_BYTES = 16
_LAYOUT = 1  # part of every key: a new layout shares no key with an old one
_NUMBER = struct.Struct("<q")


class KeyMaker:
    """Makes the keys of the items that share a model and options.

    Args:
        service: full name of the service.
        model: what identifies the weights and how they are computed (fingerprint, engine, type of the weights, ...).
        kind: what is computed ("scores", "label_log_probs", ...).
        options: everything else the result depends on besides tokens: temperature, labels, ... Finite numbers only (ValueError).
    """

    def __init__(self, service: str, model: Sequence[str], kind: str, **options: Option) -> None:
        head = json.dumps([_LAYOUT, service, list(model), kind, options], sort_keys=True, allow_nan=False).encode()
        self._base = hashlib.blake2b(_NUMBER.pack(len(head)) + head, digest_size=KEY_BYTES)

    def key(self, *parts: TokenIds, context: bytes = b"", sample_index: int | None = None) -> bytes:
        """The key of one item, 16 bytes.

        Args:
            parts: token ids, for example of a prompt and of a completion; ([1], [2, 3]) and ([1, 2], [3]) differ.
            context: anything else that belongs to this item alone.
            sample_index: which of several samples of the same question, 0 and up; None for what is computed without sampling. A
                verdict that is sampled is kept for each index, never as the one verdict that the first caller happened to get.
        """
        if sample_index is not None and sample_index < 0:
            raise ValueError(f"sample_index must be at least 0, is {sample_index}")
        digest = self._base.copy()
        arrays = [np.asarray(part, "<i8") for part in parts]
        lengths = [len(arrays), *map(len, arrays), len(context), -1 if sample_index is None else sample_index]
        digest.update(np.array(lengths, "<i8").tobytes())
        for array in arrays:
            digest.update(array.tobytes())
        digest.update(context)
        return digest.digest()


def unit_keys(keys: Iterable[bytes]) -> list[bytes]:
    """Keys of items that are computed together and by themselves: each covers the item and all of its company, in order."""
    members = list(keys)
    base = hashlib.blake2b(b"".join(members), digest_size=KEY_BYTES)
    result = []
    for member in members:
        digest = base.copy()
        digest.update(member)
        result.append(digest.digest())
    return result
