"""Policies in torch: a frozen vision trunk and a small head that refinement may change."""
