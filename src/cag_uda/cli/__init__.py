"""The command line: options, console output, and one file a command."""

from cag_uda.cli.app import main

__all__ = ["main"]
