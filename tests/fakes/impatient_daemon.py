"""The daemon, but it pings every 0.2 s and waits 1 s for a sign of life, where the real one takes 30 and 60: a test can
wait for that. `python -m tests.fakes.impatient_daemon serve ...` is then `notebookd serve ...`.
"""

from daemon.cli import main
from sync.websocket import keepalive

IMPATIENT = {"interval": 0.2, "patience": 1.0}

if __name__ == "__main__":
    keepalive.__kwdefaults__ = IMPATIENT
    main()
