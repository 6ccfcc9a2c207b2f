"""Generated messages and stubs of package rewardmesh.v1: `make proto`, never edited."""
