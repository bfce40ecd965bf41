"""What is measured of a run, one evaluator a page."""
