"""The verbs of the command line, one file each; `bench.cli` parses and calls them."""
