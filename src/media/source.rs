//! Where a picture comes from: a path, bytes, a `data:` URL, base64 (docs/spec.md, section 3.2).

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Limits, MediaError};

/// An encoded picture, or where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file.
    Path(PathBuf),
    /// Its content.
    Bytes(Vec<u8>),
}

impl Source {
    /// Reads the text of a message: an address on another machine is refused; a `data:` URL is
    /// decoded; a path, relative to `folder`, that exists is a file; what is left must be base64.
    ///
    /// # Errors
    /// [`MediaError::NetworkDisabled`]; [`MediaError::Source`] for a `data:` URL or text that is no
    /// base64; [`MediaError::Io`] for a path that does not exist; [`MediaError::Limit`].
    pub fn from_text(text: &str, folder: &Path, limits: &Limits) -> Result<Self, MediaError> {
        let scheme = text.get(..8).unwrap_or(text).to_ascii_lowercase();
        if scheme.starts_with("http://") || scheme.starts_with("https://") {
            return Err(MediaError::NetworkDisabled { url: beginning(text) });
        }
        limits.check_encoded(u64::try_from(text.len() / 4 * 3).unwrap_or(u64::MAX))?;
        if scheme.starts_with("data:") {
            // As the reference: whatever follows the first comma.
            let payload = text.split_once(',').map(|(_, payload)| payload);
            return payload.and_then(decoded).ok_or_else(|| unknown(text));
        }
        let text = text.strip_prefix("file://").unwrap_or(text);
        // A path longer than any system takes is no path.
        let path = folder.join(text);
        if text.len() < 4096 && path.is_file() {
            return Ok(Self::Path(path));
        }
        if text.len() < 4096 && path.exists() {
            return Err(MediaError::Io { path, source: not_regular() });
        }
        decoded(text).filter(|_| text.len() >= SHORTEST_BASE64).ok_or_else(|| {
            if text.len() < 4096 && !text.contains(['\n', '\0']) {
                let source = std::io::Error::from(std::io::ErrorKind::NotFound);
                MediaError::Io { path: path.clone(), source }
            } else {
                unknown(text)
            }
        })
    }

    /// The encoded bytes.
    ///
    /// # Errors
    /// [`MediaError::Io`]; [`MediaError::Limit`] before more than allowed is read.
    pub fn read(&self, limits: &Limits) -> Result<Vec<u8>, MediaError> {
        let path = match self {
            Self::Bytes(bytes) => {
                limits.check_encoded(u64::try_from(bytes.len()).unwrap_or(u64::MAX))?;
                return Ok(bytes.clone());
            }
            Self::Path(path) => path,
        };
        let io = |source| MediaError::Io { path: path.clone(), source };
        let (file, metadata) = open_regular(path).map_err(io)?;
        limits.check_encoded(metadata.len())?;
        // A file may grow: one byte past the limit is enough to refuse it.
        let mut bytes = Vec::new();
        file.take(limits.encoded_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
        limits.check_encoded(u64::try_from(bytes.len()).unwrap_or(u64::MAX))?;
        Ok(bytes)
    }

    /// What to call it in a report: the path, or the number of bytes.
    pub fn name(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Bytes(bytes) => format!("{} bytes", bytes.len()),
        }
    }
}

/// Opens a file for reading without waiting: a pipe that nobody writes to would block for ever.
///
/// # Errors
/// What the system says; a folder, a pipe or a device is not a regular file.
pub(super) fn open_regular(path: &Path) -> std::io::Result<(File, Metadata)> {
    let wait_never = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(wait_never).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok((file, metadata)) } else { Err(not_regular()) }
}

fn not_regular() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not a regular file")
}

/// Shorter text is a mistyped path: the smallest picture of any format has more bytes.
const SHORTEST_BASE64: usize = 32;

fn decoded(text: &str) -> Option<Source> {
    // Line breaks are usual in base64 files; Python's decoder skips them.
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(digits).ok().map(Source::Bytes)
}

fn unknown(text: &str) -> MediaError {
    MediaError::Source { found: beginning(text) }
}

fn beginning(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut start: String = text.chars().take(SHOWN).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Source, MediaError> {
        Source::from_text(text, Path::new("/nonexistent"), &Limits::default())
    }

    #[test]
    fn nothing_is_fetched() {
        for url in ["http://a/b.png", "HTTPS://a/b.png"] {
            let error = read(url).unwrap_err().to_string();
            assert!(error.starts_with("network sources are disabled"), "{error}");
        }
    }

    #[test]
    fn a_data_url_is_what_follows_its_comma() {
        assert_eq!(read("data:image/png;base64,AQID").unwrap(), Source::Bytes(vec![1, 2, 3]));
        assert!(matches!(read("data:image/png;base64"), Err(MediaError::Source { .. })));
        assert!(matches!(read("data:,&&&"), Err(MediaError::Source { .. })));
    }

    #[test]
    fn base64_needs_no_prefix_and_a_missing_file_is_named() {
        let text = STANDARD.encode([7; 60]);
        assert_eq!(read(&text).unwrap(), Source::Bytes(vec![7; 60]));
        assert_eq!(read("cat.png").unwrap_err().to_string(), "cannot read /nonexistent/cat.png");
    }

    #[test]
    fn a_pipe_without_a_writer_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
        let limits = Limits::default();
        for path in [&*pipe, folder.path(), Path::new("/dev/zero")] {
            let error = Source::Path(path.to_owned()).read(&limits).unwrap_err();
            assert!(matches!(error, MediaError::Io { .. }), "{error:?}");
            let text = path.to_str().unwrap();
            let error = Source::from_text(text, Path::new(""), &limits).unwrap_err();
            assert!(matches!(error, MediaError::Io { .. }), "{error:?}");
        }
    }

    #[test]
    fn a_source_over_the_limit_is_not_decoded() {
        let limits = Limits { encoded_bytes: 10, ..Limits::default() };
        let text = format!("data:image/png;base64,{}", STANDARD.encode([7; 60]));
        let error = Source::from_text(&text, Path::new(""), &limits).unwrap_err();
        assert!(matches!(error, MediaError::Limit { .. }));
        let error = Source::Bytes(vec![0; 11]).read(&limits).unwrap_err();
        assert!(matches!(error, MediaError::Limit { got: 11, max: 10, .. }));
    }
}
