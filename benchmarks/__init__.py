"""How fast kerasnn is beside its peers (`speed`), and whether it survives being killed (`chaos`)."""
