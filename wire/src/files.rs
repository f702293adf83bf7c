//! What a host and a function say about files and uploads: a function opens nothing by itself.
//!
//! ```text
//!   function                                   host
//!      | -- OpenFile -------------------------> |   a table's file, or a new one in the staging directory of a write
//!      | <------------------ FileOpened (+ fd) -|
//!      | -- BeginUpload ----------------------> |   to a remote store, whose credentials the function does not have
//!      | <---------------------------- Uploaded |
//!      | -- PutPart --------------------------> |
//!      | <---------------------------- Uploaded |
//!      | -- AbortUpload ----------------------> |   no answer
//! ```
//!
//! What an attempt may open and write is what its stage was defined with. Other requests that fail are answered by
//! `RequestFailed`.

use crate::message::Attempt;

/// Open a file of the host's machine. Answered by [`FileOpened`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct OpenFile {
    /// Answered with the same number.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// Its path in the store of `file:///`.
    #[prost(string, tag = "2")]
    pub path: String,
    /// It is made, for writing; it must not be there.
    #[prost(bool, tag = "3")]
    pub is_new: bool,
    /// Who wants it.
    #[prost(message, required, tag = "4")]
    pub attempt: Attempt,
}

/// The file rides on this message.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct FileOpened {
    /// The request.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// What the system said where there is no file; else 0.
    #[prost(int32, tag = "2")]
    pub errno: i32,
}

/// Begin an upload, which its host can take back whatever comes of it. Answered by [`Uploaded`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct BeginUpload {
    /// Answered with the same number.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// Whose upload it is.
    #[prost(message, required, tag = "2")]
    pub attempt: Attempt,
    /// Base URL of the store.
    #[prost(string, tag = "3")]
    pub store: String,
    /// Where the object will be.
    #[prost(string, tag = "4")]
    pub path: String,
}

/// Upload a part. Answered by [`Uploaded`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PutPart {
    /// Answered with the same number.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// Base URL of the store.
    #[prost(string, tag = "2")]
    pub store: String,
    /// Where the object will be.
    #[prost(string, tag = "3")]
    pub path: String,
    /// The store's name for the upload.
    #[prost(string, tag = "4")]
    pub upload: String,
    /// Which part, from 0.
    #[prost(uint32, tag = "5")]
    pub index: u32,
    /// Its bytes.
    #[prost(bytes = "bytes", tag = "6")]
    pub bytes: bytes::Bytes,
    /// Whose upload it is.
    #[prost(message, required, tag = "7")]
    pub attempt: Attempt,
}

/// It was done.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Uploaded {
    /// The request.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// The store's name for the upload that was begun, or for the part.
    #[prost(string, tag = "2")]
    pub name: String,
}

/// Take an upload of this function back.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AbortUpload {
    /// Base URL of the store.
    #[prost(string, tag = "1")]
    pub store: String,
    /// Where the object would have been.
    #[prost(string, tag = "2")]
    pub path: String,
    /// The store's name for the upload.
    #[prost(string, tag = "3")]
    pub upload: String,
}
