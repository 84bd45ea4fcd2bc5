"""Whether a scorer can be trusted: agreement with people, biases, leaderboards' figures, planted answers."""
