"""The floor: a bare asyncio protocol that does the same inference and nothing else (``floor.py MODEL PORT``).

One path, one tensor, no check, no key, no log. What a Python server cannot go below.
"""

import asyncio
import sys
from typing import ClassVar

import httptools
import msgspec
import numpy as np
import onnxruntime as ort
import orjson
import uvloop


class Tensor(msgspec.Struct):
    shape: list[int]
    data: list[float | None]


class Request(msgspec.Struct):
    inputs: list[Tensor]


decode = msgspec.json.Decoder(Request).decode
PREFIX = (
    b'{"model_name":"churn","model_version":"1",'
    b'"outputs":[{"name":"probabilities","datatype":"FP32","shape":[1,2],"data":'
)


class Floor(asyncio.Protocol):
    waiting: ClassVar[list] = []
    run = None

    def connection_made(self, transport) -> None:
        self.transport, self.parser, self.body = transport, httptools.HttpRequestParser(self), b""

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        body, self.body = self.body, b""
        tensor = decode(body).inputs[0]
        if not self.waiting:
            asyncio.get_running_loop().call_soon(Floor.flush)
        self.waiting.append((np.array(tensor.data, np.float32).reshape(tensor.shape), self))

    @classmethod
    def flush(cls) -> None:
        batch, cls.waiting[:] = list(cls.waiting), []
        rows = batch[0][0] if len(batch) == 1 else np.concatenate([rows for rows, _ in batch])
        for scores, (_, connection) in zip(cls.run(rows), batch, strict=True):
            body = PREFIX + orjson.dumps(scores, option=orjson.OPT_SERIALIZE_NUMPY) + b"}]}"
            connection.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
            )


async def main(model: str, port: int) -> None:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    Floor.run = staticmethod(lambda rows: session.run(["probabilities"], {"input": rows})[0])
    server = await asyncio.get_running_loop().create_server(Floor, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
