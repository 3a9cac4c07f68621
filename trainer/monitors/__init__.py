"""Whether the reward is being gamed: evidence, an audit by a person, an estimate of true success, a pause."""
