"""Generated from ``proto/inference/open_inference.proto`` by ``tools/protos.sh``; do not edit by hand."""
