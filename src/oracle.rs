//! Section 2 of the contract as lists and loops, on its own.
