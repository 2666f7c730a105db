"""The sandbox: what it prints, what its page says, and that it works after everything tried in it."""
