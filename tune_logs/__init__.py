"""Tuned records that ship with the package, ``<target>/*.jsonl``."""
