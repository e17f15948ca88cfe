"""`python -m cag_uda`."""

from cag_uda.cli.app import main

main()
