"""Comparisons that take minutes; each prints the figures that the documentation quotes."""
