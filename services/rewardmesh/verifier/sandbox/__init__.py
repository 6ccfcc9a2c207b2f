"""Boxes in which untrusted programs run: bubblewrap, gVisor, or none when the configuration says so by name.

`choose.open_sandboxes` finds a runtime that works; `Sandboxes` hands out boxes; `programs` runs things in one. What runs inside is in
`inside`. Nothing inside is trusted: limits are watched from outside, and nothing that must stay secret goes in.
"""
