"""The foreign protocols that end in the same items."""
