"""The coordinator's side: the plan, what comes in, and the strategy that runs a campaign."""
