"""The command line: `corelane run` and `corelane bench`. Needs the extra `cli`; nothing else in the package does."""
