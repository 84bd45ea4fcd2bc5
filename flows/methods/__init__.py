"""What each method is: its plan, its dataset, how it is shown."""
