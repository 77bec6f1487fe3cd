"""The subcommands of `kerasnn`."""
