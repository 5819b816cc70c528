"""Runs kvctl as ``python -m kvctl``."""

from kvctl.main import main

if __name__ == "__main__":
    main()
