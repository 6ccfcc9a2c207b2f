"""The templates of a server, found by name: the built-in ones beside this module, and those of its configuration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

from rewardmesh.judge.config import JudgeConfig
from rewardmesh.judge.template import JudgeTemplate, Kind, read_template
from rewardmesh.serving import ConfigError
from rewardmesh.serving.errors import not_found


class Library:
    """The templates of a server with its defaults for each kind.

    Raises:
        ConfigError: a mistake in a template; a default that does not exist.
    """

    def __init__(self, config: JudgeConfig) -> None:
        self.templates, own = load_templates(config.templates)
        self.required = set(own)
        self._defaults = {
            "compare": self._default("default_template", config.default_template, own, "compare", "compare"),
            "grade": self._default("default_rubric", config.default_rubric, own, "grade", "grade-yes-no"),
        }

    def get(self, kind: Kind, name: str) -> JudgeTemplate:
        """The template of that name, or the kind's default for an empty one; NOT_FOUND lists the known ones."""
        template = self.templates.get(name or self._defaults[kind])
        if template is None or template.kind != kind:
            known = [known.name for known in self.templates.values() if known.kind == kind]
            raise not_found("template" if kind == "compare" else "rubric", name, known)
        return template

    def _default(self, field: str, wanted: str, own: Sequence[str], kind: Kind, builtin: str) -> str:
        known = [template.name for template in self.templates.values() if template.kind == kind]
        if not wanted:
            return next((name for name in own if name in known), builtin)
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
    builtin = Path(str(resources.files(__package__))) / "templates"
    templates = {template.name: template for template in map(read_template, sorted(builtin.glob("*.yaml")))}
    own: dict[str, JudgeTemplate] = {}
    for file in [file for path in paths for file in _files(Path(path))]:
        template = read_template(file)
        if template.name in own:
            raise ConfigError(f"{file}: name: {template.name!r} is already the name of {own[template.name].source}")
        own[template.name] = template
    return templates | own, list(own)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.yaml"))
    if not files:
        raise ConfigError(f"{path}: holds no template (*.yaml)")
    return files
