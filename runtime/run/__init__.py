"""`sdi-run`: the loop with everything around it that its options say."""
