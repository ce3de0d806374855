"""The pure rules of the trainer: standard library and numpy only."""
