"""The table a run ends with in the terminal."""

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from rewardmesh.trainer.report.headline import headline_rows, run_facts, service_rows


def summary_table(summary: Mapping[str, object]) -> Table:
    """Before/after, the cost of a step, and requests and absences per service. Missing values are shown as "–"."""
    finished = summary.get("finished", True)
    table = Table(title="Run" if finished else "Run (interrupted)", title_justify="left")
    table.add_column("", overflow="fold", min_width=28)
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right", overflow="fold")
    # Text, not str: names come from recipes and may hold what rich would read as markup.
    for row in headline_rows(summary):
        table.add_row(*map(Text, (row.measure, row.before, row.after, row.change)))
    table.add_section()
    for label, value in run_facts(summary):
        table.add_row(Text(label), Text(""), Text(value), Text(""))
    services = service_rows(summary)
    if services:
        table.add_section()
        table.add_row(*(Text(name, style="bold") for name in ("Service", "requests", "absences", "reasons")))
        for service in services:
            table.add_row(*map(Text, (service.service, service.requests, service.absences, service.reasons)))
    return table
