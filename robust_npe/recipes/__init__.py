"""Figures: which runs they need, and the tables they are drawn from."""
