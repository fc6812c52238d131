//! All configuration keys.
