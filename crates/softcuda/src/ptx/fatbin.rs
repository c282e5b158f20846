//! Fatbins: the container that nvcc writes, with machine code and PTX for several architectures.

use std::borrow::Cow;
use std::fmt;
use std::io::Read;

use ruzstd::decoding::StreamingDecoder;

/// First word of a fatbin.
pub const MAGIC: u32 = 0xba55_ed50;
/// Bytes that [`image_size`] needs.
pub const HEADER_BYTES: usize = 16;

/// The payload is compressed with zstd (toolkits from 12.4).
const FLAG_ZSTD: u64 = 0x8000;
/// The payload is compressed with LZ4 (older toolkits).
const FLAG_LZ4: u64 = 0x2000;
/// The payload is for exactly this architecture, such as `sm_90a`.
const FLAG_ARCH_SPECIFIC: u64 = 0x0010_0000;
/// A member that decompresses to more is refused.
const MAX_MEMBER: u64 = 1 << 29;

/// What kind of image the first bytes are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageKind {
    /// A fatbin.
    Fatbin,
    /// An ELF file: machine code.
    Cubin,
    /// Anything else: taken for PTX text.
    Ptx,
}

impl ImageKind {
    /// The kind of an image, from its first four bytes.
    #[must_use]
    pub fn of(image: &[u8]) -> Self {
        match u32_at(image, 0) {
            Some(MAGIC) => Self::Fatbin,
            Some(0x464c_457f) => Self::Cubin,
            _ => Self::Ptx,
        }
    }
}

/// Size in bytes of the whole image whose first 16 bytes are `header`.
#[must_use]
pub fn image_size(header: &[u8]) -> Option<usize> {
    if u32_at(header, 0)? != MAGIC {
        return None;
    }
    let body = usize::try_from(u64_at(header, 8)?).ok()?;
    usize::from(u16_at(header, 6)?).checked_add(body)
}

/// What a member of a fatbin holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberKind {
    /// PTX text.
    Ptx,
    /// Machine code.
    Cubin,
    /// Something else, by its number.
    Other(u16),
}

/// A member of a fatbin.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// What it holds.
    pub kind: MemberKind,
    /// Compute capability, such as 80.
    pub arch: u32,
    /// For this architecture alone, such as `sm_90a`.
    pub arch_specific: bool,
    flags: u64,
    uncompressed: u64,
    payload: &'a [u8],
}

/// A fatbin that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FatbinError {
    /// The first word is not the magic number.
    NotAFatbin,
    /// A header or payload goes beyond the image.
    Truncated {
        /// Offset of what is cut off.
        at: usize,
    },
    /// A member's sizes contradict each other.
    BadMember {
        /// Offset of the member.
        at: usize,
    },
    /// A member is compressed with LZ4.
    Lz4,
    /// A member decompresses to more than is accepted.
    TooLarge {
        /// The size it claims.
        bytes: u64,
    },
    /// The zstd stream is damaged.
    Zstd(String),
}

impl fmt::Display for FatbinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAFatbin => write!(f, "not a fatbin"),
            Self::Truncated { at } => write!(f, "the fatbin is cut off at byte {at}"),
            Self::BadMember { at } => write!(f, "the fatbin's member at byte {at} is damaged"),
            Self::Lz4 => write!(
                f,
                "the fatbin is compressed with LZ4; rebuild it with nvcc --no-compress or a CUDA 12.4 or newer toolkit"
            ),
            Self::TooLarge { bytes } => write!(f, "a member of the fatbin has {bytes} bytes"),
            Self::Zstd(why) => write!(f, "a member of the fatbin does not decompress: {why}"),
        }
    }
}

impl std::error::Error for FatbinError {}

/// The members of a fatbin, in order.
///
/// # Errors
/// An image that is no fatbin, is cut off or whose sizes do not fit each other.
pub fn members(image: &[u8]) -> Result<Vec<Member<'_>>, FatbinError> {
    let size = image_size(image).ok_or(FatbinError::NotAFatbin)?;
    let image = image.get(..size).ok_or(FatbinError::Truncated { at: image.len() })?;
    let mut at = usize::from(u16_at(image, 6).ok_or(FatbinError::NotAFatbin)?);
    if at < HEADER_BYTES {
        return Err(FatbinError::BadMember { at: 0 });
    }
    let mut found = Vec::new();
    while at < image.len() {
        let (member, next) = member(image, at)?;
        found.push(member);
        at = next;
    }
    Ok(found)
}

/// The member at an offset and the offset of the next.
fn member(image: &[u8], at: usize) -> Result<(Member<'_>, usize), FatbinError> {
    let rest = image.get(at..).unwrap_or_default();
    let read = || {
        let kind = u16_at(rest, 0)?;
        let header = u32_at(rest, 4)? as usize;
        let padded = usize::try_from(u64_at(rest, 8)?).ok()?;
        let compressed = u32_at(rest, 16)? as usize;
        Some((
            kind,
            header,
            padded,
            compressed,
            u32_at(rest, 28)?,
            u64_at(rest, 40)?,
            u64_at(rest, 56)?,
        ))
    };
    let truncated = FatbinError::Truncated { at };
    let Some((kind, header, padded, compressed, arch, flags, uncompressed)) = read() else {
        return Err(truncated);
    };
    if header < 64 || compressed > padded {
        return Err(FatbinError::BadMember { at });
    }
    let end = header.checked_add(padded).ok_or(FatbinError::BadMember { at })?;
    let payload = rest.get(header..end).ok_or(truncated)?;
    let packed = flags & (FLAG_ZSTD | FLAG_LZ4) != 0 && compressed > 0;
    let payload = if packed { payload.get(..compressed).unwrap_or_default() } else { payload };
    let member = Member {
        kind: match kind {
            1 => MemberKind::Ptx,
            2 => MemberKind::Cubin,
            other => MemberKind::Other(other),
        },
        arch,
        arch_specific: flags & FLAG_ARCH_SPECIFIC != 0,
        flags,
        uncompressed,
        payload,
    };
    Ok((member, at.checked_add(end).ok_or(FatbinError::BadMember { at })?))
}

impl<'a> Member<'a> {
    /// The contents, decompressed; PTX without the NUL bytes at its end.
    ///
    /// # Errors
    /// LZ4, a damaged zstd stream, more than 512 MiB.
    pub fn data(&self) -> Result<Cow<'a, [u8]>, FatbinError> {
        if self.flags & FLAG_LZ4 != 0 {
            return Err(FatbinError::Lz4);
        }
        if self.flags & FLAG_ZSTD == 0 {
            let text = if self.kind == MemberKind::Ptx { trim(self.payload) } else { self.payload };
            return Ok(Cow::Borrowed(text));
        }
        if self.uncompressed > MAX_MEMBER {
            return Err(FatbinError::TooLarge { bytes: self.uncompressed });
        }
        let damaged = |why: &dyn fmt::Display| FatbinError::Zstd(why.to_string());
        let decoder = StreamingDecoder::new(self.payload).map_err(|e| damaged(&e))?;
        let mut data = Vec::new();
        // One byte more than announced shows that the announcement was wrong.
        let limit = self.uncompressed.saturating_add(1);
        decoder.take(limit).read_to_end(&mut data).map_err(|e| damaged(&e))?;
        if data.len() as u64 != self.uncompressed {
            return Err(damaged(&"its size is not the announced one"));
        }
        if self.kind == MemberKind::Ptx {
            data.truncate(trim(&data).len());
        }
        Ok(Cow::Owned(data))
    }
}

/// All PTX texts of a fatbin with their architectures.
///
/// # Errors
/// As of [`members`] and [`Member::data`].
pub fn ptx_texts(image: &[u8]) -> Result<Vec<(u32, Vec<u8>)>, FatbinError> {
    let members = members(image)?;
    let texts = members.iter().filter(|m| m.kind == MemberKind::Ptx);
    texts.map(|m| Ok((m.arch, m.data()?.into_owned()))).collect()
}

/// The PTX text of the highest architecture that runs on `arch`; `None` if there is none.
///
/// # Errors
/// As of [`members`] and [`Member::data`].
pub fn select_ptx(image: &[u8], arch: u32) -> Result<Option<Cow<'_, [u8]>>, FatbinError> {
    let runs = |m: &&Member<'_>| {
        m.kind == MemberKind::Ptx && if m.arch_specific { m.arch == arch } else { m.arch <= arch }
    };
    // The generic text wins over the specific one: fewer instructions that need the real thing.
    let members = members(image)?;
    let best = members.iter().filter(runs).max_by_key(|m| (m.arch, !m.arch_specific));
    best.map(Member::data).transpose()
}

/// The machine code that a GPU of `arch` would run, which names register counts
/// ([`super::cubin`]): of the same major version and the highest minor version up to its own;
/// `None` if there is none.
///
/// # Errors
/// As of [`members`] and [`Member::data`].
pub fn select_cubin(image: &[u8], arch: u32) -> Result<Option<Cow<'_, [u8]>>, FatbinError> {
    let runs = |m: &&Member<'_>| {
        let older = m.arch / 10 == arch / 10 && m.arch < arch && !m.arch_specific;
        m.kind == MemberKind::Cubin && (m.arch == arch || older)
    };
    let members = members(image)?;
    let best = members.iter().filter(runs).max_by_key(|m| (m.arch, m.arch_specific));
    best.map(Member::data).transpose()
}

fn trim(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|b| *b != 0).map_or(0, |at| at.saturating_add(1));
    text.get(..end).unwrap_or_default()
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_le_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes_at(bytes, at).map(u64::from_le_bytes)
}
