"""What the other stages borrow too: errors, the console, files and pictures."""
