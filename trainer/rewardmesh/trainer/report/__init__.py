"""What a run did, for people: `report.html` from the files of a run folder, and the table at the end of a run."""

from rewardmesh.trainer.report.evaluation import SCHEMA as EVALUATION_SCHEMA
from rewardmesh.trainer.report.evaluation import EvaluationError, EvaluationRow, read_evaluation, write_evaluation
from rewardmesh.trainer.report.page import write_report
from rewardmesh.trainer.report.terminal import summary_table

__all__ = [
    "EVALUATION_SCHEMA",
    "EvaluationError",
    "EvaluationRow",
    "read_evaluation",
    "summary_table",
    "write_evaluation",
    "write_report",
]
