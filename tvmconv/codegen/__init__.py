"""Lowered functions out: kernels to objects, objects and plan to an artifact."""
