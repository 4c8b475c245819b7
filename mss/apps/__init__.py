"""What is done with separated stems; imported by the verbs only."""
