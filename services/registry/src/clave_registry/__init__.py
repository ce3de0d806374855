"""Models, versions, artifacts, lineage, approvals, cards, endpoints, rollouts."""
