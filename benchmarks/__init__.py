"""Measurements, one module each: `python -m benchmarks.scoring` writes `benchmarks/results/scoring.{json,md,png}`."""
