"""How every service of clave is run."""
