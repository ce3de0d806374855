"""Triton's Python backend on the same session; joins the requests that Triton hands over together."""

import numpy as np
import triton_python_backend_utils as pb
from session import load


class TritonPythonModel:
    def initialize(self, _args):
        self.run = load()

    def execute(self, requests):
        inputs = [pb.get_input_tensor_by_name(request, "input").as_numpy() for request in requests]
        scores = self.run(np.concatenate(inputs) if len(inputs) > 1 else inputs[0])
        answers, start = [], 0
        for rows in inputs:
            answers.append(pb.InferenceResponse([pb.Tensor("probabilities", scores[start : start + len(rows)])]))
            start += len(rows)
        return answers
