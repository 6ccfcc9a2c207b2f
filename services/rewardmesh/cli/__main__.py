"""`python -m rewardmesh.cli` is `rewardmesh`."""

from rewardmesh.cli import main

main()
