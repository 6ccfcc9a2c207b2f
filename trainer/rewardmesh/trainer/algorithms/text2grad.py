"""Text2Grad: PPO on rewards of the spans that a critique speaks of.

Wang et al. 2025, "Text2Grad: Reinforcement Learning from Natural Language Feedback" (arXiv 2505.22338): each phrase of a critique is tied
to a span of the completion and says good or bad; the tokens of the span are paid so, tokens without remark nothing, and PPO learns from
it. Departures: critiques and spans come from the mesh, no reward model is trained to write them; the score of the whole completion is
paid at its end as ever; a value may be on any scale; it may also stand at the end of its span or be spread over it.
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from rewardmesh.trainer.algorithms._dense import DenseConfig, DensePPO
from rewardmesh.trainer.credit.dense import TokenRewards, span_rewards
from rewardmesh.trainer.credit.spans import Placement
from rewardmesh.trainer.samples import Group

SpanCoef = Annotated[float, Field(gt=0, description="of the spans' values")]
PlacementOption = Annotated[Placement, Field(description="a span's value on each of its tokens, on its last one, or spread evenly")]


class Text2GradConfig(DenseConfig):
    """Options of Text2Grad."""

    span_coef: SpanCoef = 1.0
    placement: PlacementOption = "each"


class Text2Grad(DensePPO):
    """PPO with the values of spans added to their tokens."""

    name = "text2grad"
    reads_spans = True

    def __init__(self, config: Text2GradConfig) -> None:
        super().__init__(config)
        self._options = config

    def token_rewards(self, groups: Sequence[Group]) -> TokenRewards:
        """span_coef times the spans' values, on their tokens."""
        return span_rewards(groups, self._options.span_coef, self._options.placement)


Config = Text2GradConfig
create = Text2Grad
