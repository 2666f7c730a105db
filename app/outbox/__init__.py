"""The durable queue: what was accepted, and how far each promise is kept."""
