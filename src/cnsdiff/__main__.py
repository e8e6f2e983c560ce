"""``python -m cnsdiff``: the command line."""

from cnsdiff.cli import main

if __name__ == "__main__":
    main()
