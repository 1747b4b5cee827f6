"""The calibration set: real pictures that stand for what the camera will see. Needs no torch."""
