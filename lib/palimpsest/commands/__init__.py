"""The `palimpsest` command, a file a subcommand; `main` puts them together."""
