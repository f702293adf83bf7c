//! Onward: TPC-H data, queries, answers, runner and report.
