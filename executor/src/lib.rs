//! Onward: the host and its function processes.
