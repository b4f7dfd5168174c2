"""The command line: `corelane` and its commands. Needs the extra `cli`; nothing else in the package does."""
