"""The ground floor: errors, types, coding, file names, the doors to disk and time, options, events, metric names."""
