"""The command line, one module per command group.

Nothing else reads the environment, except for TLS and proxy variables (`leanplum/connections.py`).
"""
