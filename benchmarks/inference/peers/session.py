"""The ONNX Runtime session that every peer runs: one thread, sequential, no spinning, one output."""

import os

import onnxruntime as ort


def load():
    """Give a function from rows (n, columns) float32 to probabilities (n, 2) float32."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
    return lambda rows: session.run(["probabilities"], {"input": rows})[0]
