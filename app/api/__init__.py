"""HTTP in: what callers and operators see."""
