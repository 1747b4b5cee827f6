"""`sdi-doctor`: facts about this machine (`probes`, `machine`) and what they mean (`findings`)."""
