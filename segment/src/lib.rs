//! Onward: immutable Arrow IPC segments in shared memory.
