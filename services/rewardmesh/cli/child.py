"""`python -m rewardmesh.cli.child PARENT_PID ARGUMENT...`: the `rewardmesh` command in a process that dies with its supervisor."""

from __future__ import annotations

import sys

from rewardmesh.cli import main
from rewardmesh.serving.lifeline import die_with

if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    sys.argv[1:] = sys.argv[2:]
    main()
