"""The link process: episodes to the trainer, releases from it, over sockets that control never waits for."""
