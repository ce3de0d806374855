"""HTTP/1.1 as bytes, over both roads to the infer route: pipelines, heads seen before, chunks, closed connections."""

import json
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from clave_inference.lane_plan import plan_key
from clave_testing.infer_requests import ask, request_body
from clave_testing.patience import PATIENCE_S


def raw(server: Any, data: bytes, *, answers: int) -> bytes:
    """Send bytes on one connection and read until so many answers came, or the end."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as connection:
        connection.sendall(data)
        received = b""
        while received.count(b"HTTP/1.1 ") < answers or not complete(received):
            part = connection.recv(65536)
            if not part:
                break
            received += part
        return received


def complete(received: bytes) -> bool:
    head, _, body = received.rpartition(b"\r\n\r\n")
    last = head.lower().rpartition(b"http/1.1 ")[2]
    length = last.rpartition(b"content-length: ")[2].partition(b"\r\n")[0]
    return length.isdigit() and len(body) >= int(length)


def raw_request(body: bytes, *more: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    head = [
        b"POST /v2/models/churn/infer " + version,
        b"host: x",
        b"authorization: Bearer good",
        b"content-length: %d" % len(body),
        *more,
    ]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def test_pipelined_requests_are_answered_in_order(server: Any) -> None:
    bodies = [json.dumps(request_body(rows, id=f"r{rows}")).encode() for rows in (1, 2, 3, 1)]
    received = raw(server, b"".join(raw_request(body) for body in bodies), answers=4)
    assert received.count(b"HTTP/1.1 200") == 4
    places = [received.index(b'"id":"r%d"' % rows) for rows in (1, 2, 3)]
    assert places == sorted(places)


def kept(server: Any, requests: list[bytes]) -> list[bytes]:
    """Send requests one after the other on one connection, each in one piece."""
    answers = []
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as connection:
        for request in requests:
            connection.sendall(request)
            received = b""
            while not (received.startswith(b"HTTP/1.1 ") and complete(received)):
                received += connection.recv(65536)
            answers.append(received)
    return answers


def test_a_head_seen_before_is_answered_like_the_first(server: Any) -> None:
    bodies = [json.dumps(request_body(id=f"r{number}")).encode() for number in range(4)]
    for number, answer in enumerate(kept(server, [raw_request(body) for body in bodies])):
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b'"id":"r%d"' % number in answer


def test_what_follows_a_head_seen_before_is_judged_anew(server: Any) -> None:
    good = json.dumps(request_body()).encode()
    bad = good.replace(b"0.1", b"nan")
    wrong_key = raw_request(good).replace(b"Bearer good", b"Bearer evil")
    cut = raw_request(good)
    answers = kept(server, [raw_request(good), raw_request(bad), wrong_key, raw_request(good)])
    assert [answer[9:12] for answer in answers] == [b"200", b"400", b"401", b"200"]
    two = kept(server, [raw_request(good), cut + cut[:40]])
    assert two[1].startswith(b"HTTP/1.1 200")


def test_request_ids_of_an_edge_do_not_matter_and_other_headers_do(server: Any) -> None:
    body = json.dumps(request_body()).encode()
    requests = [raw_request(body, b"x-request-id: 00-%d" % number) for number in range(3)]
    folded = raw_request(body, b"x-request-id: 1\ntransfer-encoding: chunked")
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in kept(server, requests))
    assert plan_key(folded[: -len(body)]) == folded[: -len(body)]
    assert plan_key(requests[0]) == plan_key(requests[1])


def test_rows_of_many_callers_come_back_to_their_own(server: Any) -> None:
    def one(number: int) -> tuple[int, dict[str, Any]]:
        body = request_body(id=str(number))
        body["inputs"][0]["data"] = [number / 10, 0.0, 0.0, 0.0]
        return number, ask(server, body).json()

    with ThreadPoolExecutor(8) as threads:
        for number, answer in threads.map(one, range(40)):
            assert answer["id"] == str(number)
            scores = next(output for output in answer["outputs"] if output["name"] == "probabilities")["data"]
            assert scores[1] == pytest.approx(1 / (1 + np.exp(-number / 10)), abs=1e-6)


def test_connection_close_and_http_1_0_close(server: Any) -> None:
    body = json.dumps(request_body()).encode()
    for data in (raw_request(body, b"connection: close"), raw_request(body, version=b"HTTP/1.0")):
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as connection:
            connection.sendall(data)
            received = b""
            while part := connection.recv(65536):  # ends because the server closes
                received += part
        assert b" 200 OK" in received


def test_expect_continue_gets_its_100(server: Any) -> None:
    body = json.dumps(request_body()).encode()
    received = raw(server, raw_request(body, b"expect: 100-continue"), answers=2)
    assert received.startswith(b"HTTP/1.1 100")
    assert b"HTTP/1.1 200" in received


def test_chunked_and_split_bodies_are_read(server: Any) -> None:
    body = json.dumps(request_body()).encode()
    head = b"POST /v2/models/churn/infer HTTP/1.1\r\nhost: x\r\nauthorization: Bearer good\r\n"
    chunked = head + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    assert b"HTTP/1.1 200" in raw(server, chunked, answers=1)
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as connection:
        whole = raw_request(body)
        for at in range(0, len(whole), 50):
            connection.sendall(whole[at : at + 50])
        assert b"HTTP/1.1 200" in connection.recv(65536)


def test_a_client_that_leaves_harms_nobody(server: Any) -> None:
    body = json.dumps(request_body()).encode()
    for _ in range(20):
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(raw_request(body))
        connection.close()
    assert ask(server, request_body()).status_code == 200
