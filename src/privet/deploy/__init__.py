"""From a list of sites to a running consortium: start-up kits, their checks, and what an operator does with runs."""
