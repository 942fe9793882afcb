"""`python -m hwfit`, and what `torchrun -m hwfit` starts."""

from hwfit.cli import main

if __name__ == "__main__":
    main()
