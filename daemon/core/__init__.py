"""Pure decisions: nothing here awaits, opens a socket, reads a clock or makes a random number."""
