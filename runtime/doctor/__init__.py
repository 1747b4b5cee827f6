"""What is installed here and what would work: facts (`probes`, `machine`), and what they mean (`findings`)."""
