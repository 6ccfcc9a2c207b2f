"""Triton's Python backend: the dynamic batcher hands over requests of one sequence each, which become a padded batch.

Copied as `model.py`, with `padded.py` beside it, into the model repository. Needs numpy, torch and transformers in the environment
of the running Triton.
"""

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from padded import PaddedScorer


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model."""
        self.scorer = PaddedScorer()

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request, in order. A request holds ids of shape [1, tokens]."""
        sequences = [pb_utils.get_input_tensor_by_name(request, "ids").as_numpy()[0].tolist() for request in requests]
        values = self.scorer(sequences)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("score", np.array([[value]], dtype=np.float32))]) for value in values]
