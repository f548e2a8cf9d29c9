"""What a person sees of a run: pictures of samples, and one self-contained page that is made from the run's folder."""
