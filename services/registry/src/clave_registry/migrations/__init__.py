"""How the registry's schema came to be."""
