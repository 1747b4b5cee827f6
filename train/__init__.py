"""Networks, losses, data, the training loop and scores. Needs torch; see `sdi-train --help`."""
