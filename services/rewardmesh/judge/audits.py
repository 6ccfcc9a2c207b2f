"""The gate in front of a judge: with `require_audit` only what has passed `rewardmesh audit judge` answers.

An audit is of a model with a template: the fingerprint that verdicts carry. Its result lies in AUDITS/<fingerprint>.json. It is looked for
when the server starts, when a version is loaded or activated (with the default template of Compare), and when a call names another
template of that kind.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from rewardmesh.engine.interface import ServedModel
from rewardmesh.engine.loading import LoadError
from rewardmesh.engine.versions import Loader, ModelStore
from rewardmesh.judge.template import JudgeTemplate, judged_fingerprint
from rewardmesh.serving.config import describe_errors
from rewardmesh.serving.errors import failed_precondition

COMMAND = "rewardmesh audit judge"


class Figure(BaseModel):
    """One measured property of a judge."""

    model_config = ConfigDict(extra="ignore")

    name: str
    value: float | None
    threshold: float
    met: bool


class Audit(BaseModel):
    """The result of an audit, as its file holds it."""

    model_config = ConfigDict(extra="ignore")

    fingerprint: str
    passed: bool
    figures: list[Figure]


class Gate:
    """Lets a model through with the templates that it was audited with.

    Args:
        directory: of the results; None lets everything through.
        default: the template that a version is activated for.
    """

    def __init__(self, directory: Path | None, default: JudgeTemplate) -> None:
        self._directory = directory
        self._default = default

    def check(self, model: ServedModel, template: JudgeTemplate | None = None) -> None:
        """Raise LoadError, naming the figures that failed, unless the model has passed with a template (None: the default one)."""
        template = template or self._default
        if self._directory is None or template.kind != "compare":
            return
        fingerprint = judged_fingerprint(model.fingerprint, template.fingerprint)
        file = self._directory / f"{fingerprint}.json"
        who = f"model {model.name!r} version {model.version} with template {template.name!r} (fingerprint {fingerprint})"
        try:
            audit = Audit.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            raise LoadError(f"require_audit: {who} was not audited: there is no {file}; `{COMMAND}` writes it") from None
        except OSError as error:
            raise LoadError(f"require_audit: {file} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            raise LoadError(f"require_audit: {describe_errors(error, str(file), Audit)}; `{COMMAND}` writes it anew") from error
        if audit.fingerprint != fingerprint:
            raise LoadError(f"require_audit: {file}: fingerprint: is of another judge, {audit.fingerprint}")
        failed = [figure for figure in audit.figures if not figure.met]
        if failed or not audit.passed or not audit.figures:
            reasons = ", ".join(f"{figure.name} is {_shown(figure.value)} (threshold {figure.threshold:g})" for figure in failed)
            raise LoadError(f"require_audit: {who} did not pass: {reasons or 'it has no figures'}; see {file}, and `{COMMAND}`")


class AuditedStore(ModelStore):
    """A store that activates only what the gate lets through at that moment."""

    def __init__(self, service: str, first: ServedModel, loader: Loader, gate: Gate) -> None:
        super().__init__(service, first, loader)
        self._gate = gate

    def activate(self, version: int, expected: int | None) -> tuple[ServedModel, ServedModel]:
        """See `ModelStore`; FAILED_PRECONDITION for a version that has not passed."""
        model = next((model for model in self.versions() if model.version == version), None)
        if model is not None:
            try:
                self._gate.check(model)
            except LoadError as error:
                raise failed_precondition(str(error)) from error
        return super().activate(version, expected)


def _shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"
