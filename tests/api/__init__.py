"""The API as callers see it: a real app, a real database, and HTTP in the same process or over a
socket.
"""
