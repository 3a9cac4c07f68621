"""The programs a robot consists of: which they are, started, watched, ended in order, and reported on."""
