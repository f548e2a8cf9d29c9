"""Which operator is fastest at a tolerance, found out on the points."""
