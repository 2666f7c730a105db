"""Who may call: caller keys, their form, their store, and the look-up on every request."""
