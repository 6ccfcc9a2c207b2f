"""What the calls of a judge have in common: which version answers with which template, and how its answers are named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rewardmesh.engine.interface import ServedModel
from rewardmesh.engine.loading import LoadError
from rewardmesh.engine.versions import ModelStore
from rewardmesh.judge.accounts import Account, provenance
from rewardmesh.judge.audits import Gate
from rewardmesh.judge.config import JudgeConfig
from rewardmesh.judge.interview import Answer, Interview
from rewardmesh.judge.labels import Labels
from rewardmesh.judge.library import Library
from rewardmesh.judge.questions import Item, Writer
from rewardmesh.judge.session import Desk
from rewardmesh.judge.template import JudgeTemplate, judged_fingerprint
from rewardmesh.judge.votes import Ballot
from rewardmesh.serving.context import CallContext
from rewardmesh.serving.errors import failed_precondition
from rewardmesh.v1 import common_pb2 as pb

SERVICE = "rewardmesh.v1.JudgeService"


@dataclass(frozen=True)
class Bench:
    """The parts of a running judge."""

    config: JudgeConfig
    store: ModelStore
    library: Library
    labels: Labels
    gate: Gate
    desk: Desk

    def sit(self, wanted: pb.ModelRef, template: JudgeTemplate, prompts: Iterable[Sequence[str]] = ()) -> Sitting:
        """The version that answers with a template.

        Args:
            prompts: what else the items read, by fingerprint: an item's own reference may be asked for too.

        Raises:
            CallError: NOT_FOUND or FAILED_PRECONDITION: another name, version or fingerprint; a template this version cannot be asked
                with, or was not audited with.
        """
        model = self.store.resolve(pb.ModelRef(name=wanted.name, version=wanted.version))
        judged = judged_fingerprint(model.fingerprint, template.fingerprint)
        known = {model.fingerprint, judged, *(judged_fingerprint(model.fingerprint, template.fingerprint, *each) for each in prompts)}
        if wanted.fingerprint and wanted.fingerprint not in known:
            raise failed_precondition(
                f"model {model.name!r} version {model.version} with {template.name!r} has fingerprint {judged}, not {wanted.fingerprint}"
            )
        trees = self.labels.of(model, template)
        if isinstance(trees, str):
            raise failed_precondition(trees)
        try:
            self.gate.check(model, template)
        except LoadError as error:
            raise failed_precondition(str(error)) from error
        return Sitting(self, model, template)


@dataclass(frozen=True)
class Sitting:
    """One version of the model with one template, for one call."""

    bench: Bench
    model: ServedModel
    template: JudgeTemplate

    async def ask(self, items: Callable[[Writer], Sequence[Item]], ballot: Ballot, context: CallContext) -> list[Answer]:
        """One answer an item, in order; `items` writes them, beside the event loop."""
        bench = self.bench
        bench.desk.check(context)
        trees = bench.labels.of(self.model, self.template)
        if isinstance(trees, str):  # `sit` has refused it
            raise failed_precondition(trees)
        interview = Interview(bench.desk, self.model, self.template, trees, ballot, self.clean, bench.config.min_label_mass)
        return await interview.ask(lambda: items(self.writer), context)

    def clean(self, text: str) -> str:
        """A text without control tokens of the model."""
        return self.bench.labels.defuse(self.model, text)

    @property
    def writer(self) -> Writer:
        """Writes its questions."""
        return Writer(self.template, self.clean, self.bench.library.constitutions)

    def provenance(self, accounts: Iterable[Account], prompts: Iterable[str] = ()) -> pb.Provenance:
        """Of an outcome; the fingerprint covers the template, and constitutions that the item named."""
        model = self.model
        judged = judged_fingerprint(model.fingerprint, self.template.fingerprint, *prompts)
        reference = pb.ModelRef(name=model.name, version=model.version, fingerprint=judged)
        return provenance(SERVICE, reference, self.bench.config.replica, accounts, self.bench.desk.ledger)
