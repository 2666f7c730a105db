"""How items become a call, and how its answer is read."""
