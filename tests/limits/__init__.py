"""How fast callers may be."""
