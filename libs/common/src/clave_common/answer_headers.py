"""Headers that keep browsers and caches from making more of an answer than it is.

What every answer carries stands with the server, which writes it into answers of every kind, its own refusals included.
"""

EVERY_ANSWER = [("x-content-type-options", "nosniff")]
"""No browser guesses that a body is a page or a script."""
HOLDS_A_SECRET = {"Cache-Control": "no-store"}
"""No cache and no browser's history keeps a key that is shown once."""
PAGE = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
"""A page runs nothing, loads nothing, sends nothing, and stands in nobody's frame."""
