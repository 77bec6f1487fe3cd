"""Times epochs and searches of kerasnn and of its peers, all in one run."""
