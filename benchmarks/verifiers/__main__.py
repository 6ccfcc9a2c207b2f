"""`python -m benchmarks.verifiers`."""

from benchmarks.verifiers.command import main

if __name__ == "__main__":
    main()
