"""Startup and shutdown: the process, the application, its pages and health checks."""
