"""`python -m csp_index`: the command line, also where its command `csp-index` is not on the path."""

from csp_index.cli import main

if __name__ == "__main__":
    main()
