"""The built-in verifiers, one a file; a file's `VERIFIER` is found by `rewardmesh.verifier.registry.discover`."""
