"""Pure functions: attention, segments, positions, losses."""
