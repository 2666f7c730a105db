"""Keeping the promise: what waits is packed, sent, its answers judged and written down."""
