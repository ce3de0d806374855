"""CPU of the model alone (``raw_run.py MODEL ROWS SECONDS``): prints us per row of a batch of 32."""

import sys
import time

import numpy as np
import onnxruntime as ort

BATCH = 32


def main(model: str, rows_path: str, seconds: float) -> None:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rows = np.load(rows_path)
    rng = np.random.default_rng(1)
    batches = [np.ascontiguousarray(rows[rng.integers(0, len(rows), BATCH)]) for _ in range(64)]
    for batch in batches:
        session.run(["probabilities"], {"input": batch})
    runs, began = 0, time.process_time()
    while time.process_time() - began < seconds:
        session.run(["probabilities"], {"input": batches[runs % len(batches)]})
        runs += 1
    print((time.process_time() - began) / runs / BATCH * 1e6)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
