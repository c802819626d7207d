"""The `palimpsest` command, one file per subcommand; `main` puts them together."""
