"""What a network is told about the sample it draws. See README.md."""
