"""The subcommands of `deb-export`, one per file. None imports a heavy package at the top."""
