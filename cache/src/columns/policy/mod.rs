//! What is kept, and what is evicted when the budget is full. One policy a file.

mod s3_fifo;
mod seen;

pub use s3_fifo::S3Fifo;
pub use seen::Seen;
