"""How fast kerasnn is beside its peers, all in one run."""
