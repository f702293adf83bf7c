//! Queues, users, starts.
