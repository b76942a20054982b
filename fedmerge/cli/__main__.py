"""`python -m fedmerge.cli` is the command `fedmerge`."""

from fedmerge.cli import main

main()
