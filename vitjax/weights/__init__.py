"""Tables between our parameter paths and other people's keys, read in both directions."""
