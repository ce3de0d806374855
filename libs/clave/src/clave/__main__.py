"""`python -m clave`: the same as the command `clave`."""

from clave.cli import main

if __name__ == "__main__":
    main()
