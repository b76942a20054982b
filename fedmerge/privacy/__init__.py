"""What keeps a site's model and patients to itself: seals, masked sums, differential privacy, attacks that test it."""
