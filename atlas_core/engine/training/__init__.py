"""Train networks so that a run can be stopped at any moment and goes on to the same bits."""
