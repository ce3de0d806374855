"""The pure rules of the feature store: definitions, validation, point-in-time joins, online values.

Standard library and numpy only. Nothing here opens a file, a socket or a transaction.
"""
