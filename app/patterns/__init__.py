"""Operators' patterns over callers' texts: Python's syntax, searched for in linear time by RE2.

    a pattern ─ syntax (read as Python reads it, said as RE2 says it) ─ states (is it small enough?)
    ─ engine (search)

Nothing here is the gateway's own: a pattern and a text come in, and whether the one is found in the
other goes out.
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
