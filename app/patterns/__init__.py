"""Operators' patterns over callers' texts: Python's syntax, searched in linear time by RE2.

    pattern ─ syntax (parsed as Python does, written for RE2)
            ─ state_count (is it small enough?) ─ engine (search)

The package is independent of the gateway: it takes a pattern and a text, and returns whether the
pattern is found in the text.
"""

from app.patterns.engine import Pattern, any_of, check_size, compile_glob, compile_pattern, encoded
from app.patterns.syntax import PatternRefused

__all__ = [
    "Pattern",
    "PatternRefused",
    "any_of",
    "check_size",
    "compile_glob",
    "compile_pattern",
    "encoded",
]
