"""Starts a service's HTTP server: uvicorn on uvloop and httptools, with a bounded shutdown."""

import asyncio
from typing import Literal

import uvicorn
from fastapi import FastAPI

from clave_common.answer_headers import EVERY_ANSWER
from clave_common.mutual_tls import MutualTls
from clave_common.settings import ServiceSettings


def serve(
    app: FastAPI, settings: ServiceSettings, *, protocol: Literal["httptools"] | type[asyncio.Protocol] = "httptools"
) -> None:
    """Serve until SIGTERM, then finish what is in flight within the grace time."""
    tls = MutualTls.serving(settings)
    uvicorn.run(
        app,
        host=settings.http_host,
        port=settings.http_port,
        loop="uvloop",
        http=protocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        headers=EVERY_ANSWER,
        proxy_headers=False,
        timeout_graceful_shutdown=int(settings.shutdown_grace_s),
        timeout_keep_alive=75,
        **({} if tls is None else tls.uvicorn_options()),
    )
