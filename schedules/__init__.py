"""Design spaces, one file a hardware family; :mod:`tvmconv.autoschedule` finds them."""
