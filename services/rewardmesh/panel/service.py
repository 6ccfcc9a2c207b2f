"""JudgeService over JudgeServices: a panel is asked, and answers, as a judge does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from rewardmesh.panel.asking import Ask
from rewardmesh.panel.config import PanelConfig
from rewardmesh.panel.document import Panel, load_panel
from rewardmesh.panel.ledger import SERVICE, Identity, Ledger
from rewardmesh.panel.members import Member
from rewardmesh.panel.rules import RULES, Answerer, Method
from rewardmesh.panel.server import PanelServer
from rewardmesh.serving import Server
from rewardmesh.serving.context import CallContext, metadata_value, propagated_metadata, remaining_s
from rewardmesh.serving.errors import failed_precondition, invalid_argument, not_found
from rewardmesh.serving.logs import get_logger
from rewardmesh.serving.metrics import count_outcome
from rewardmesh.serving.validation import absence, require_unique_ids
from rewardmesh.v1 import common_pb2 as pb
from rewardmesh.v1 import judge_service_pb2 as api
from rewardmesh.v1 import judge_service_pb2_grpc as rpc

log = get_logger(__name__)

PANELS_KEY = "x-panels"
"""Metadata: marks of the panels that a call came through."""
VERSION = 1
"""A panel is not swapped while it runs; its fingerprint says what it is made of."""


class PanelServicer(rpc.JudgeServiceServicer):
    """Answers by the panel's rules; must be made inside a running event loop."""

    def __init__(self, config: PanelConfig, panel: Panel, members: Mapping[str, Member]) -> None:
        self._config = config
        self._panel = panel
        self._members = members
        self._identity = Identity(panel.digest)
        # A rule that answers several methods has one answerer, so that what it remembers is of all of them.
        made: dict[int, Answerer] = {}
        for rule in panel.rules.values():
            if id(rule) not in made:
                made[id(rule)] = rule.answerer(panel.name, panel.members)
        self.answerers: dict[Method, Answerer] = {method: made[id(rule)] for method, rule in panel.rules.items()}

    async def Compare(self, request: api.CompareRequest, context: CallContext) -> api.CompareResponse:
        """See the proto."""
        require_unique_ids((pair.id for pair in request.pairs), "pairs")
        _check(request, "orders", api.CompareOrders)
        answerer, ask = self._begin("compare", request, context, "pairs")
        found = await answerer.compare(ask, request.pairs)
        return api.CompareResponse(outcomes=self._outcomes(ask, "pair_id", request.pairs, found))

    async def Rank(self, request: api.RankRequest, context: CallContext) -> api.RankResponse:
        """See the proto."""
        require_unique_ids((group.id for group in request.groups), "groups")
        _check(request, "method", api.RankMethod)
        _check(request, "aggregation", api.RankAggregation)
        answerer, ask = self._begin("rank", request, context, "groups")
        if not answerer.ranks_itself and request.method not in (api.RANK_METHOD_UNSPECIFIED, api.RANK_METHOD_ALL_PAIRS):
            raise invalid_argument("method", f"must be all pairs: rule {self._panel.rules['rank'].rule!r} decides a pair at a time")
        if not answerer.ranks_itself and request.repeats > 1:
            raise invalid_argument("repeats", f"must be at most 1: rule {self._panel.rules['rank'].rule!r} decides a pair once")
        small = {
            index: absence(pb.ABSENCE_REASON_INVALID_INPUT, f"completions: at least 2 are needed, there are {len(group.completions)}")
            for index, group in enumerate(request.groups)
            if len(group.completions) < 2
        }
        found = iter(await answerer.rank(ask, [group for index, group in enumerate(request.groups) if index not in small]))
        results = [small.get(index) or next(found) for index in range(len(request.groups))]
        return api.RankResponse(outcomes=self._outcomes(ask, "group_id", request.groups, results))

    async def Grade(self, request: api.GradeRequest, context: CallContext) -> api.GradeResponse:
        """See the proto."""
        require_unique_ids((sample.id for sample in request.samples), "samples")
        answerer, ask = self._begin("grade", request, context, "samples")
        found = await answerer.grade(ask, request.samples)
        return api.GradeResponse(outcomes=self._outcomes(ask, "sample_id", request.samples, found))

    async def Critique(self, request: api.CritiqueRequest, context: CallContext) -> api.CritiqueResponse:
        """See the proto."""
        require_unique_ids((sample.id for sample in request.samples), "samples")
        answerer, ask = self._begin("critique", request, context, "samples")
        found = await answerer.critique(ask, request.samples)
        return api.CritiqueResponse(outcomes=self._outcomes(ask, "sample_id", request.samples, found))

    def _begin(self, method: Method, request: Any, context: CallContext, items: str) -> tuple[Answerer, Ask]:
        """The one who answers, and what it may ask with: the caller's options, deadline and metadata."""
        panel = self._panel
        if method not in self.answerers:
            able = [name for name, rule in RULES.items() if method in rule.methods]
            raise failed_precondition(f"panel {panel.name!r} has no rule for {method}; {panel.source} can name one of {', '.join(able)}")
        options = type(request)()
        options.CopyFrom(request)
        options.ClearField(items)
        options.ClearField("model")
        template = "rubric" if method == "grade" else "template"
        if getattr(options, template) == panel.name:
            options.ClearField(template)
        asked = f"{method}/{getattr(options, template)}"
        self._check_model(request.model, asked)
        left_s = remaining_s(context)
        left_s = self._config.default_timeout_seconds if left_s is None else left_s
        # A reserve to decide and to reply, so that one member that is late does not take the others' verdicts with it.
        deadline = asyncio.get_running_loop().time() + left_s - min(0.05 * left_s, 1.0)
        metadata = (*propagated_metadata(context), (PANELS_KEY, self._way(context)))
        return self.answerers[method], Ask(self._members, options, deadline, metadata, self._identity, Ledger(), asked)

    def _way(self, context: CallContext) -> str:
        """The panels that the call came through, and this one. One that asks itself would do so without end, and count its vote again."""
        came = (metadata_value(context, PANELS_KEY) or "").split(",")
        if self._panel.mark in came:
            raise failed_precondition(f"panel {self._panel.name!r} is asked by itself: take it out of its members, and out of theirs")
        return ",".join([*filter(None, came), self._panel.mark])

    def _check_model(self, wanted: pb.ModelRef, asked: str) -> None:
        if wanted.name not in ("", self._panel.name):
            raise not_found("model", wanted.name, [self._panel.name])
        if wanted.version not in (0, VERSION):
            raise not_found(f"version of {self._panel.name}", str(wanted.version), [str(VERSION)])
        found = self._identity.fingerprint(asked)
        if wanted.fingerprint not in ("", found):
            raise failed_precondition(f"panel {self._panel.name!r} has fingerprint {found} for {asked!r}, not {wanted.fingerprint}")

    def _outcomes(self, ask: Ask, id_field: str, items: Sequence[Any], found: Sequence[Any]) -> list[Any]:
        kind, verdict_field = _OUTCOMES[type(ask.options)]
        model = pb.ModelRef(name=self._panel.name, version=VERSION, fingerprint=self._identity.fingerprint(ask.asked))
        outcomes = []
        for item, verdict in zip(items, found, strict=True):
            outcome = kind(provenance=ask.ledger.provenance(item.id, model, self._config.replica))
            setattr(outcome, id_field, item.id)
            lost = verdict if isinstance(verdict, pb.Absence) else None
            getattr(outcome, "absence" if lost else verdict_field).CopyFrom(verdict)
            count_outcome(SERVICE, self._panel.name, lost)
            outcomes.append(outcome)
        return outcomes


_OUTCOMES: Mapping[type[Any], tuple[type[Any], str]] = {
    api.CompareRequest: (api.PreferenceOutcome, "preference"),
    api.RankRequest: (api.RankingOutcome, "ranking"),
    api.GradeRequest: (api.GradesOutcome, "grades"),
    api.CritiqueRequest: (api.CritiqueOutcome, "critique"),
}


async def create_server(config: PanelConfig) -> Server:
    """Read the panel's file and build the server; members need not be up.

    Raises:
        ConfigError: a mistake in the file.
    """
    panel = load_panel(config.panel, config.addresses)
    members = {name: Member(panel.name, name, spec, config.max_message_bytes) for name, spec in panel.members.items()}
    servicer = PanelServicer(config, panel, members)
    server = PanelServer(config, members, list(servicer.answerers.values()))
    server.add_service(SERVICE, rpc.add_JudgeServiceServicer_to_server, servicer)
    log.info("panel", name=panel.name, members=list(members), rules={method: rule.rule for method, rule in panel.rules.items()})
    return server


def _check(request: Any, field: str, enum: Any) -> None:
    """An enum value that this server does not know is an error, never a default."""
    if getattr(request, field) not in enum.values():
        raise invalid_argument(field, f"unknown value {getattr(request, field)}")
