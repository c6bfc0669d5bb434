"""Whether models still see what they were made for, as fast and as right as when converted."""
