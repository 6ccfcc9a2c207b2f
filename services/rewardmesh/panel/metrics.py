"""What a panel counts beside the items it answers."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

MEMBER_ITEMS = Counter(
    "rewardmesh_panel_member_items",
    "Items that members of a panel were asked about; outcome is 'present' or the reason of the absence.",
    ["panel", "member", "method", "outcome"],
)
ESCALATED = Counter(
    "rewardmesh_panel_escalated_items",
    "Items that a cascade sent on from a member; reason is absent, unsure, orders, drift or audit, or over_budget for those it could not.",
    ["panel", "method", "member", "reason"],
)
KEPT = Counter("rewardmesh_panel_kept_items", "Items on which a cascade kept an earlier member's verdict.", ["panel", "method"])
AUDIT_AGREEMENT = Gauge(
    "rewardmesh_panel_audit_agreement", "Share of the newest audited items on which a member agreed with the next.", ["panel", "member"]
)
