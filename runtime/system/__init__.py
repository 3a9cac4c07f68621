"""What a process asks of the operating system: rank, memory it shares, sockets, signals, a log."""
