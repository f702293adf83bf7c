//! A split-block Bloom filter, as in Parquet: eight bits of one 256-bit block for each hash.

/// Bytes of a block.
const BLOCK_BYTES: usize = 32;

/// One odd number for each word of a block.
const SALT: [u32; 8] =
    [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];

/// A filter lets through what it should not with this probability to the power of eight: past it, it is of no use.
const MOST_ONES: f64 = 0.85;

/// Hashes that may be there.
#[derive(Clone, Debug)]
pub(super) struct Bloom {
    blocks: Vec<[u32; 8]>,
}

impl Bloom {
    /// An empty one of at most `bytes`, and of a block at least.
    pub fn new(bytes: u64) -> Self {
        let blocks = usize::try_from(bytes).unwrap_or(usize::MAX) / BLOCK_BYTES;
        Self { blocks: vec![[0; 8]; blocks.max(1)] }
    }

    fn block(&self, hash: u64) -> usize {
        // The upper half chooses the block, the lower one the bits. Exchanges route by remainders of the whole: spread it anew.
        let spread = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (((spread >> 32) * self.blocks.len() as u64) >> 32) as usize
    }

    pub fn insert(&mut self, hash: u64) {
        let block = self.block(hash);
        for (word, salt) in self.blocks[block].iter_mut().zip(SALT) {
            *word |= 1 << ((hash as u32).wrapping_mul(salt) >> 27);
        }
    }

    pub fn may_contain(&self, hash: u64) -> bool {
        let block = &self.blocks[self.block(hash)];
        block.iter().zip(SALT).all(|(word, salt)| word >> ((hash as u32).wrapping_mul(salt) >> 27) & 1 == 1)
    }

    /// What either has. False: they are of different sizes, and nothing was done.
    pub fn merge(&mut self, other: &Self) -> bool {
        if self.blocks.len() != other.blocks.len() {
            return false;
        }
        for (mine, theirs) in self.blocks.iter_mut().flatten().zip(other.blocks.iter().flatten()) {
            *mine |= theirs;
        }
        true
    }

    /// So full that it lets nearly everything through.
    pub fn is_full(&self) -> bool {
        let ones: u64 = self.blocks.iter().flatten().map(|word| u64::from(word.count_ones())).sum();
        ones as f64 > MOST_ONES * (self.blocks.len() * BLOCK_BYTES * 8) as f64
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        self.blocks.iter().flatten().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// What [`Self::to_bytes`] gave; `None` when it cannot be.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (blocks, rest) = bytes.as_chunks::<BLOCK_BYTES>();
        if blocks.is_empty() || !rest.is_empty() {
            return None;
        }
        let block = |bytes: &[u8; BLOCK_BYTES]| {
            let (words, _) = bytes.as_chunks::<4>();
            std::array::from_fn(|at| u32::from_le_bytes(words[at]))
        };
        Some(Self { blocks: blocks.iter().map(block).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(seed: u64) -> impl Iterator<Item = u64> {
        (1_u64..)
            .map(move |at| (at ^ seed).wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(29).wrapping_mul(0xca5a_8263))
    }

    #[test]
    fn what_was_inserted_is_found_and_little_else() {
        let mut bloom = Bloom::new(64 << 10);
        hashes(0).take(40_000).for_each(|hash| bloom.insert(hash));
        assert!(hashes(0).take(40_000).all(|hash| bloom.may_contain(hash)));
        let wrong = hashes(1 << 40).take(40_000).filter(|hash| bloom.may_contain(*hash)).count();
        assert!(wrong < 400, "{wrong} of 40000");
        assert!(!bloom.is_full());
        let again = Bloom::from_bytes(&bloom.to_bytes()).expect("its own bytes");
        assert!(hashes(0).take(40_000).all(|hash| again.may_contain(hash)));
        hashes(7).take(1_000_000).for_each(|hash| bloom.insert(hash));
        assert!(bloom.is_full());
        assert!(!bloom.merge(&Bloom::new(32)) && Bloom::from_bytes(&[0; 33]).is_none());
    }
}
