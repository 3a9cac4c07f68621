"""The reward model `vlm`: a vision-language model that is asked about an episode and read at one token."""
