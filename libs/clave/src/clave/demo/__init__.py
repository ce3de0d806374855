"""The demonstrations: the whole loop on real data, told by the services' own answers."""
