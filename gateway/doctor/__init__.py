"""`seawall doctor`: examines a configuration, what it names and where it runs, and says what to do."""
