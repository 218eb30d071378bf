"""Choosing schedules: the registry of the design spaces in ``schedules/``."""
