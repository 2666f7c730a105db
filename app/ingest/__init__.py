"""From words to a promise: read a body, hold it against the rules, make items of it."""
