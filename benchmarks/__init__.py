"""Measurements, one module each: `python -m benchmarks.packed_forward` writes `benchmarks/results/packed_forward.{json,md,png}`."""
