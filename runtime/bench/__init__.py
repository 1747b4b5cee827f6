"""`sdi-bench`: speed and memory of engines on this machine."""
