#!/usr/bin/env python3
"""Exit 0 when the service on a port of this container is ready: ``python3 -I -S /opt/healthy.py 47322``.

Every container runs it every few seconds, so it imports next to nothing.
"""

import sys
from http.client import HTTPConnection, HTTPException

connection = HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=5)
try:
    connection.request("GET", "/v2/health/ready")
    sys.exit(connection.getresponse().status != 200)  # noqa: PLR2004 - the number says it
except (OSError, HTTPException) as error:
    sys.exit(f"not ready: {error}")
