"""Reports of audits: Markdown with plots, JSON, and the file that a gate reads."""

from rewardmesh.audit.report.files import check_folder, to_json, write_gate, write_report

__all__ = ["check_folder", "to_json", "write_gate", "write_report"]
