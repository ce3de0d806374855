#!/usr/bin/env bash
# Generate the gRPC code of the contracts. The generated files are committed: users need no compiler.
#
# The messages go into a descriptor pool of their own. protobuf refuses a second definition of `inference.*` in its
# default pool, and Triton's and KServe's clients bring theirs: without this, no program could import both.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=libs/contracts/src/clave_contracts/inference_grpc

"$python" -m grpc_tools.protoc --proto_path=libs/contracts/proto/inference \
  --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" open_inference.proto health.proto
for name in open_inference health; do
  sed -i 's/_descriptor_pool\.Default()/_descriptor_pool.DescriptorPool()/' "$out/${name}_pb2.py"
  sed -i "s/^import ${name}_pb2 as/from clave_contracts.inference_grpc import ${name}_pb2 as/" "$out/${name}_pb2_grpc.py"
done
