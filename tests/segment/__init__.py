"""Unchanged libraries of Segment and RudderStack go through a real gateway."""
