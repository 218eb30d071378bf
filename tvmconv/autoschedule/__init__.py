"""Choosing schedules: the registry of design spaces, one file a hardware family in ``schedules/``."""
