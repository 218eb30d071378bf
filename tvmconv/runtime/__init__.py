"""What runs an artifact: the C runtime that is linked into it, and the loader for Python."""
