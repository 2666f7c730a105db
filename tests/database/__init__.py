"""The database in good and in bad days."""
