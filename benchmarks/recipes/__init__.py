"""Does every recipe improve its own objective? `python -m benchmarks.recipes`, or `make bench-recipes`."""
