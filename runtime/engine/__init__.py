"""Whatever runs a network: one interface, a file for each backend, and what is checked before a file is loaded."""
