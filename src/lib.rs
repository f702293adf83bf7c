//! Onward.
