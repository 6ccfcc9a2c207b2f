"""Scoring, measured: rewardmesh and every peer on the same model and the same text, one after the other.

    python -m benchmarks.scoring --data FOLDER                     everything (`make bench-scoring`); needs `make peers`
    python -m benchmarks.scoring --only A,gateway --peers vllm     parts of it; the rest keeps what was measured before
    python -m benchmarks.scoring --quick                           a tiny model, seconds: tries the benchmark itself
    python -m benchmarks.scoring.gpu --shape 8b --dtype bfloat16   on a GPU: MFU, against padded transformers

Parts: A, B and C are races (`workloads`, `race`), D is overload (`overload`); gateway, verifier, memory, single-flight and replicas are
modules of those names. `bars` holds what is wanted, `report` writes `results/scoring.{json,md,png}`. The JSON is saved after every
measurement, so a run that is broken off loses nothing, and `--only` merges into it.
"""
