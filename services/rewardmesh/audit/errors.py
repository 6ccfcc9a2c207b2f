"""What makes an audit impossible, as opposed to an audit that is not passed."""

from __future__ import annotations


class AuditError(Exception):
    """A mistake in the data, a threshold or a setting, or a judge that changed meanwhile; the message names the field and the remedy."""
