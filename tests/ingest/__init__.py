"""The rules that items must keep, and how bodies are read."""
