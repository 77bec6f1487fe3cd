"""Kills trainings, searches and saves at random moments, and compares what they end with."""
