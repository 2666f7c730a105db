"""Operators' patterns: what they mean, and what searching for them costs."""
