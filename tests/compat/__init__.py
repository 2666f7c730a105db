"""The SDK endpoint."""
