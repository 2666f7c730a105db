"""Calls to Leanplum that are answered while the caller waits."""
