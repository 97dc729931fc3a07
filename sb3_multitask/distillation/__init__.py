"""Learn from teachers."""
