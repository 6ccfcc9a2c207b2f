"""Verifiers that misbehave on the completion "bad" and pass everything else."""
