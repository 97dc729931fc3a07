"""Algorithms on several tasks, and what they share."""
