"""`moworld bench`: one module per case, each of which times a hot path beside what a user would otherwise use. `measure` is shared."""
