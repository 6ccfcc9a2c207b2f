"""The prompts of a server, found by name: the built-in templates beside this module, those of its configuration, and constitutions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rewardmesh.judge.config import JudgeConfig
from rewardmesh.judge.constitutions import Constitutions, yaml_files
from rewardmesh.judge.document import BUILT_IN
from rewardmesh.judge.rendering import Kind
from rewardmesh.judge.template import JudgeTemplate, read_template
from rewardmesh.serving import ConfigError
from rewardmesh.serving.config import nearest
from rewardmesh.serving.errors import invalid_argument, not_found

REASONED: Mapping[Kind, str] = {"compare": "compare-reasoned", "grade": "grade-reasoned"}
"""Built-in templates for who wants reasons and names no template."""
_BUILT_IN: Mapping[Kind, str] = {"compare": "compare", "grade": "grade-yes-no", "rank": "rank-list", "critique": "critique"}


class Library:
    """The templates of a server with its defaults for each kind, and its constitutions.

    Raises:
        ConfigError: a mistake in a file; a default or a constitution that does not exist.
    """

    def __init__(self, config: JudgeConfig) -> None:
        self.constitutions = Constitutions(config.constitutions)
        templates, own = load_templates(config.templates)
        self.templates = {name: self._constituted(template) for name, template in templates.items()}
        self.required = set(own)
        configured: Mapping[Kind, tuple[str, str]] = {
            "compare": ("default_template", config.default_template),
            "grade": ("default_rubric", config.default_rubric),
            "critique": ("default_critique", config.default_critique),
            "rank": ("", ""),
        }
        self._defaults = {kind: self._default(field, wanted, own, kind) for kind, (field, wanted) in configured.items()}

    def get(self, kind: Kind, name: str, *, reasons: bool = False) -> JudgeTemplate:
        """The template of that name, or the kind's default for an empty one.

        Args:
            reasons: whether it must write reasons; an empty name then means the kind's template that does.

        Raises:
            CallError: NOT_FOUND, lists the known ones; INVALID_ARGUMENT for reasons that it does not write.
        """
        template = self.templates.get(name or self._defaults[kind])
        if template is None or template.kind != kind:
            known = [known.name for known in self.templates.values() if known.kind == kind]
            raise not_found("rubric" if kind == "grade" else "template", name, known)
        if reasons and not template.hops:
            if name:
                able = ", ".join(sorted(known.name for known in self.templates.values() if known.kind == kind and known.hops))
                raise invalid_argument("want_rationale", f"template {name!r} has no hops that write reasons; these have: {able}")
            template = self.templates[REASONED[kind]]
        return template

    def _constituted(self, template: JudgeTemplate) -> JudgeTemplate:
        """The template with the principles of its constitution, whose hash becomes part of its own."""
        if not template.constitution:
            return template
        constitution = self.constitutions.get(template.constitution)
        if constitution is None:
            known = self.constitutions.known
            raise ConfigError(
                f"{template.source}: constitution: none is named {template.constitution!r}{nearest(template.constitution, known)};"
                f" known: {', '.join(sorted(known)) or 'none, name files in constitutions'}"
            )
        digest = hashlib.sha256(f"{template.fingerprint}\0{constitution.fingerprint}".encode()).hexdigest()[:16]
        return replace(template, principles=constitution.principles, fingerprint=digest)

    def _default(self, field: str, wanted: str, own: Sequence[str], kind: Kind) -> str:
        known = [template.name for template in self.templates.values() if template.kind == kind]
        if not wanted:
            return next((name for name in own if name in known), _BUILT_IN[kind])
        if wanted not in known:
            raise ConfigError(f"{field}: no {kind} template is named {wanted!r}; known: {', '.join(sorted(known))}")
        self.required.add(wanted)
        return wanted


def load_templates(paths: Iterable[str]) -> tuple[dict[str, JudgeTemplate], list[str]]:
    """Read the built-in templates and those of `paths` (files, or directories of *.yaml).

    Returns:
        Templates by name, and the names of those from `paths`, in order.

    Raises:
        ConfigError: a missing path, a mistake in a file, two files with one name.
    """
    templates = {template.name: template for template in map(read_template, sorted(BUILT_IN.glob("*.yaml")))}
    own: dict[str, JudgeTemplate] = {}
    for file in [file for path in paths for file in yaml_files(Path(path), "template")]:
        template = read_template(file)
        if template.name in own:
            raise ConfigError(f"{file}: name: {template.name!r} is already the name of {own[template.name].source}")
        own[template.name] = template
    return templates | own, list(own)
