"""`python -m stoker` is the same program as `stoker`."""

from stoker.cli import main

if __name__ == "__main__":
    main()
