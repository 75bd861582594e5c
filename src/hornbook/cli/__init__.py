"""The command line: parse, call, print. Nothing else; heavy imports stand inside the commands."""

from hornbook.cli.parser import build_parser, main

__all__ = ["build_parser", "main"]
