"""`python -m caa` is `caa`."""

from caa.cli import main

if __name__ == "__main__":
    main()
