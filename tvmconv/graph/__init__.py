"""Graph passes, one file each, in the order in which they run: fuse, layout, lower, plan."""
