"""The database: its tables, its migrations, and the one thread that writes. What is written is
decided above.
"""
