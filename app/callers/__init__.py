"""Caller keys: their format, their store, and the lookup on every request."""
