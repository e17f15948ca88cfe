"""`python -m cag_uda.cli`."""

from cag_uda.cli.app import main

main()
