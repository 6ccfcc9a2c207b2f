"""Puts the report together: one HTML file without scripts or anything loaded from elsewhere."""

from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from rewardmesh.trainer.atomic import atomic_file
from rewardmesh.trainer.report.headline import headline_rows, run_facts, service_rows
from rewardmesh.trainer.report.numbers import section, text_of
from rewardmesh.trainer.report.plots import all_plots
from rewardmesh.trainer.report.run_data import RunData, load_run
from rewardmesh.trainer.report.samples_view import PROBLEMS_SHOWN, flips, paired_problems, seen_versions, training_groups

_VERSION_FIELDS = ("model", "version", "fingerprint")


def write_report(run_dir: Path) -> Path:
    """Writes `run_dir/report.html` from what is there and returns its path.

    Missing or damaged pieces are said in the report. Raises FileNotFoundError where `run_dir` isn't a folder, OSError where the
    report can't be written (an earlier report then stays as it was).
    """
    if not run_dir.is_dir():
        raise FileNotFoundError(f"{run_dir} is not a run folder")
    path = run_dir / "report.html"
    page = render(load_run(run_dir))
    with atomic_file(path) as file:
        file.write(page.encode("utf-8", errors="backslashreplace"))  # JSON may hold half a surrogate pair
    return path


def render(run: RunData) -> str:
    """The page as text; every value of the run is escaped by the template engine."""
    environment = Environment(
        loader=PackageLoader("rewardmesh.trainer.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    groups = [group for step in run.training if (group := training_groups(step)) is not None]
    return environment.get_template("report.html.j2").render(
        run=run,
        headline=headline_rows(run.summary) if run.summary else [],
        facts=run_facts(run.summary),
        services=service_rows(run.summary),
        last=_last_step(run),
        plots=all_plots(run.metrics, run.summary) if run.metrics else [],
        problems=paired_problems(run.before, run.after),
        problems_shown=PROBLEMS_SHOWN,
        flips=flips(run.before, run.after),
        groups=groups,
        versions=_version_rows(section(run.summary, "versions") or seen_versions(run.training)),
    )


def _last_step(run: RunData) -> list[tuple[str, str]]:
    """The last recorded step, shown where there is no summary."""
    if run.summary or not run.metrics:
        return []
    return [(key, text_of(value)) for key, value in run.metrics[-1].items()]


def _version_rows(versions: Mapping[str, object]) -> list[tuple[str, ...]]:
    rows = []
    for name, record in sorted(versions.items()):
        values = record if isinstance(record, Mapping) else {"version": record}
        rows.append((name, *(text_of(values.get(key)) for key in _VERSION_FIELDS)))
    return rows
