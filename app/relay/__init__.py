"""Synchronous calls to Leanplum, answered while the caller waits."""
