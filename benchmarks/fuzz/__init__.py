"""Fuzzing: damaged, foreign and absurd files against every reader of hwfit."""
