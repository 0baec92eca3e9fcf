"""The command line of freqbench: `python bench.py --help`."""

from freqbench.cli import main

if __name__ == "__main__":
    main()
