"""What a run did, as ``run.json``, as one HTML page, and as a few lines on the terminal."""
