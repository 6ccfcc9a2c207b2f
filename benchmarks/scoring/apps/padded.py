"""Padded batches as most people write them: the longest sequence of a batch sets its width. Runs in the peers' environments.

What the Triton, Ray Serve, LitServe and FastAPI servers have in common: transformers' own model and attention, and batches sorted by
length and cut into smaller ones, so that little is padded. Needs torch and transformers only.
"""

import os
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification


def limit_threads() -> None:
    """Give the present thread's operations its part of BENCH_THREADS, which BENCH_WORKERS workers share."""
    torch.set_num_threads(int(os.environ["BENCH_THREADS"]) // int(os.environ["BENCH_WORKERS"]))


class PaddedScorer:
    """Scores token-id lists with a sequence-classification model."""

    def __init__(self) -> None:
        """Load the model that BENCH_MODEL names, of type BENCH_DTYPE, for BENCH_MICRO sequences a forward pass."""
        limit_threads()
        self._micro = int(os.environ["BENCH_MICRO"])
        dtype = getattr(torch, os.environ.get("BENCH_DTYPE", "float32"))
        self._device = os.environ.get("BENCH_DEVICE", "cpu")
        model: Any = AutoModelForSequenceClassification.from_pretrained(os.environ["BENCH_MODEL"], dtype=dtype)
        self._model = model.to(self._device).eval()
        self._pad = int(model.config.pad_token_id)

    def __call__(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Raw outputs of the head, in order."""
        order = sorted(range(len(sequences)), key=lambda place: len(sequences[place]))
        values = [0.0] * len(sequences)
        with torch.inference_mode():
            for start in range(0, len(order), self._micro):
                places = order[start : start + self._micro]
                for place, value in zip(places, self._forward([sequences[place] for place in places]), strict=True):
                    values[place] = value
        return values

    def _forward(self, batch: Sequence[Sequence[int]]) -> list[float]:
        longest = max(map(len, batch))
        ids = torch.tensor([[*sequence, *[self._pad] * (longest - len(sequence))] for sequence in batch], device=self._device)
        mask = torch.tensor([[1] * len(sequence) + [0] * (longest - len(sequence)) for sequence in batch], device=self._device)
        logits = self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return [float(value) for value in logits[:, 0].float().cpu()]
