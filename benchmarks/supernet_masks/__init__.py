"""What mixing width choices costs: factorised masks against loops and stacked masks. See `__main__`."""
