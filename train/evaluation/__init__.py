"""Maps of a checkpoint, an engine or a folder, scored beside the papers' tables. See docs/evaluation.md."""
