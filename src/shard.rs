//! The loop that drives partitions.
