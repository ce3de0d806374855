"""Inference side by side: clave with everything on, the floor beneath it, and other model servers."""
