"""`python -m esxprov.cli`."""

from esxprov.cli import main

main()
