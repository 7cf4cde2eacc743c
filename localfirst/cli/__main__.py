"""`python -m localfirst.cli` is `localfirst`."""

from localfirst.cli import main

main()
