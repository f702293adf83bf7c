//! Compression of the bytes between two hosts, chunk by chunk.

use bytes::Bytes;
use onward_wire::exchange::Compression;
use onward_wire::{ErrorKind, WireError};

/// Level 1: the network is the limit where anybody turns this on, and higher levels are slower than a network.
const ZSTD_LEVEL: i32 = 1;

/// The setting `compression`.
///
/// # Errors
/// When it names none.
pub fn parse_compression(text: &str) -> Result<Compression, WireError> {
    match text {
        "none" => Ok(Compression::None),
        "lz4" => Ok(Compression::Lz4),
        "zstd" => Ok(Compression::Zstd),
        _ => {
            let message = format!("compression = `{text}` is not known: take none, lz4 or zstd");
            Err(WireError::new(ErrorKind::InvalidQuery, message))
        }
    }
}

/// `bytes`, compressed.
pub(super) fn compress(compression: Compression, bytes: &[u8]) -> Result<Bytes, WireError> {
    match compression {
        Compression::None => Ok(Bytes::copy_from_slice(bytes)),
        Compression::Lz4 => Ok(lz4_flex::block::compress(bytes).into()),
        Compression::Zstd => zstd::bulk::compress(bytes, ZSTD_LEVEL)
            .map(Bytes::from)
            .map_err(|error| WireError::new(ErrorKind::Internal, format!("zstd: {error}"))),
    }
}

/// Decompresses into `out`, which has the place for exactly what `bytes` hold.
pub(super) fn decompress(compression: Compression, bytes: &[u8], out: &mut [u8]) -> Result<(), WireError> {
    let broken = |why: String| WireError::new(ErrorKind::Unavailable, format!("compressed bytes are damaged: {why}"));
    let written = match compression {
        Compression::None if bytes.len() == out.len() => {
            out.copy_from_slice(bytes);
            out.len()
        }
        Compression::None => return Err(broken(format!("{} bytes came for {}", bytes.len(), out.len()))),
        Compression::Lz4 => lz4_flex::block::decompress_into(bytes, out).map_err(|error| broken(error.to_string()))?,
        Compression::Zstd => zstd::bulk::decompress_to_buffer(bytes, out).map_err(|error| broken(error.to_string()))?,
    };
    match written == out.len() {
        true => Ok(()),
        false => Err(broken(format!("{written} bytes came out of them instead of {}", out.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_comes_back_and_what_is_damaged_does_not() {
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for name in ["none", "lz4", "zstd"] {
            let compression = parse_compression(name).unwrap();
            let packed = compress(compression, &bytes).unwrap();
            let mut out = vec![0; bytes.len()];
            decompress(compression, &packed, &mut out).unwrap();
            assert_eq!(out, bytes, "{name}");
            assert!(name == "none" || packed.len() < bytes.len() / 2, "{name}");
            assert!(decompress(compression, &packed[..packed.len() / 2], &mut out).is_err(), "{name}");
            assert!(decompress(compression, &packed, &mut vec![0; bytes.len() + 1]).is_err(), "{name}");
        }
        assert!(parse_compression("snappy").is_err());
    }
}
