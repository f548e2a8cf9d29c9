"""One operator over the processes of a distributed run."""
