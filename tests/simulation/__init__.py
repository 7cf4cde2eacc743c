"""A simulation of replication: one seed, one small universe, faults of every kind. See docs/simulation.md."""
