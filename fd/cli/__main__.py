"""`python -m fd.cli`: the command `fidec` where its script is not at hand, as in a folder that was moved."""

from fd.cli.program import main

if __name__ == "__main__":
    main()
