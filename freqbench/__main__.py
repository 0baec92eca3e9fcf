"""`python -m freqbench`: the command line where there is no checkout, as in a job on a cluster."""

from freqbench.cli import main

if __name__ == "__main__":
    main()
