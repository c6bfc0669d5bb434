"""The vocabulary of the project; imports nothing else of ours."""
