"""The hospital's side: the only code that sees patients."""
