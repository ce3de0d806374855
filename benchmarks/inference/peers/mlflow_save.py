"""Write the MLflow model that ``mlflow models serve`` loads (``mlflow_save.py FOLDER``)."""

import os
import shutil
import sys

import mlflow.onnx
import onnx

shutil.rmtree(sys.argv[1], ignore_errors=True)
mlflow.onnx.save_model(
    onnx.load(os.environ["MODEL"]),
    sys.argv[1],
    onnx_session_options={"intra_op_num_threads": 1, "inter_op_num_threads": 1},
)
