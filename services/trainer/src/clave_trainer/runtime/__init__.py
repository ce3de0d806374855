"""What computes: XGBoost, ONNX and ONNX Runtime, imported only where a step needs them."""
