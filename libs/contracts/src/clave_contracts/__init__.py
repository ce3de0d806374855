"""What crosses a service boundary: events, schemas, protobuf, clients."""
