"""Tests of the console: with an HTTP client, and in Chromium."""
