"""A judge server inside this process, for commands that need one just for their own run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rewardmesh.cli.local_server import local_server
from rewardmesh.cli.local_template import is_file
from rewardmesh.judge import JudgeConfig, create_server


@contextmanager
def local_judge(model: str, template: str) -> Iterator[str]:
    """Serve a model on the loopback while the block runs; gives the address.

    Args:
        model: directory or hub name.
        template: a template file, or the name of a built-in one; it becomes the default. "" for the service's default.

    Raises:
        ConfigError: a mistake in the template.
        LoadError: a model that cannot be served.
    """
    chosen: dict[str, Any] = {}
    if template:
        chosen = {"templates": [template]} if is_file(template) else {"default_template": template}
    config = JudgeConfig(model=model, host="127.0.0.1", port=0, metrics_port=0, drain_seconds=1, **chosen)
    with local_server(lambda: create_server(config)) as address:
        yield address
