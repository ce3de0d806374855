"""What runs models: ONNX Runtime sessions, the micro-batcher, the check of untrusted files, the explainer."""
