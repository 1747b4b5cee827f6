"""Speed figures with bounds, measured side by side: `python -m benchmarks` writes docs/benchmarks.md."""
