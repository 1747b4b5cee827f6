"""`sdi-run`: the loop with its sources, sinks and display, made from options."""
