"""The outbox on a real SQLite database."""
