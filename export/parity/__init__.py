"""Parity gates: proof that an engine answers what was trained."""
