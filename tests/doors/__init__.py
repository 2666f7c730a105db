"""The SDK door."""
