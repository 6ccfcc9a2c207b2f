"""The operators of reward programs, one file each, found by name.

How to add one: write `operators/<name>.py` with a subclass of `Operator` and `OPERATOR = <the class>`, and its test in
`tests/gateway/operators/test_<name>.py`. It is then written `{<name>: <arguments>}`. It declares the scale of what it computes, and lets
a missing value through with its causes (`node.missing`); it never makes a number of it.
"""
