"""The reward model `endpoint`: the same questions as `vlm`, put to an OpenAI-compatible server."""
