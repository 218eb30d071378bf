"""Hardware descriptions, one TOML file a target; :mod:`tvmconv.target` loads them."""
