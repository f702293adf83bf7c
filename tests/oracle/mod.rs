//! Single-process DataFusion beside Onward with function processes, over the same tables.
//!
//! | file | subject |
//! | --- | --- |
//! | `single` | plain DataFusion: the oracle |
//! | `cluster` | one coordinator that all tests of the process share |
//! | `tables` | the tables, written as files |
//! | `rows` | results as text |

pub mod cluster;
pub mod rows;
pub mod single;
pub mod tables;
