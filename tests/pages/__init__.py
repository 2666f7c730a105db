"""The pages as a person sees them: rendered by Chromium, from a real server."""
