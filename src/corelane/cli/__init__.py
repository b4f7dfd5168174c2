"""The command line: `corelane run`, `batch` and `bench`. Needs the extra `cli`; nothing else in the package does."""
