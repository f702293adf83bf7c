//! What is evicted when the budget is full. One policy a file.

mod s3_fifo;

pub use s3_fifo::S3Fifo;
