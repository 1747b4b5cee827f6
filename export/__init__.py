"""From a checkpoint to an engine, and the proof that both answer alike. Needs torch and onnx."""
