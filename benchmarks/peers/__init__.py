"""What the transport benchmarks share: problems, the true error of an answer, and the peers."""
