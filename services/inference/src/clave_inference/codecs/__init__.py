"""The Open Inference Protocol's three forms on the wire: REST JSON, REST with binary tensors, gRPC messages."""
