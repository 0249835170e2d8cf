"""The few hot operators, each with a reference, the implementations that run, and a face that checks and chooses."""
