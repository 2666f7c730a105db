"""Caller keys, their store, and who may do what."""
