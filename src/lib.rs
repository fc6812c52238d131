//! readstates: knows, for every user and every channel of a chat system, what has been read.
