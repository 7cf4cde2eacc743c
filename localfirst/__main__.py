"""`python -m localfirst` is `localfirst`."""

from localfirst.cli import main

main()
