"""`python -m daemon` is `notebookd`."""

from daemon.cli import main

main()
