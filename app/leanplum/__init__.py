"""Leanplum: its actions, the requests that carry items to it, its client, and its replies."""
