"""`sdi-bench`: what engines take on this machine."""
