"""The command: python -m benchmarks.scoring --data FOLDER; see the package for what is measured."""

from benchmarks.scoring.command import main

if __name__ == "__main__":
    main()
