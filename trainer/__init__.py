"""On the workstation: episode store, reward models, policies, refinement, publisher, daemon."""
