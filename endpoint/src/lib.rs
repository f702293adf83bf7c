//! Onward: Arrow Flight SQL.
