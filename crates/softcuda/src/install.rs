//! Puts the software driver into this process, where a loader that asks for `libcuda.so` finds it.
//!
//! The library is a shim (see `build.rs`) whose SONAME is `libcuda.so`. The C library compares the
//! name that a later `dlopen("libcuda.so")` asks for with the SONAMEs of what is loaded, before it
//! looks at the file system.

use std::ffi::{CStr, CString, c_void};
use std::fmt;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::config::Config;
use crate::driver;

static SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libcuda.so"));

/// How the library was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// From memory: `memfd_create`.
    Memory,
    /// From a temporary file, deleted since.
    TemporaryFile,
    /// From `libsoftcuda.so` beside the executable.
    BesideExecutable,
}

/// The software driver is in this process, until it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Installed {
    /// How it got there.
    pub method: Method,
}

/// One way that did not work.
#[derive(Debug)]
pub struct Attempt {
    /// Which way.
    pub method: Method,
    /// What was refused.
    pub step: String,
    /// The system's or the loader's words.
    pub error: String,
}

/// The software driver cannot be put into this process.
#[derive(Debug)]
pub enum InstallError {
    /// A statically linked program cannot load libraries.
    Static,
    /// Every way was refused.
    Refused(Vec<Attempt>),
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static => {
                f.write_str("a statically linked program cannot load the driver library")
            }
            Self::Refused(attempts) => {
                f.write_str("the software driver cannot be loaded")?;
                for Attempt { method, step, error } in attempts {
                    write!(f, "; {method:?}: {step}: {error}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for InstallError {}

static INSTALLED: Mutex<Option<Installed>> = Mutex::new(None);

/// Makes `libcuda.so` mean the software driver in this process. A second call changes nothing, not
/// even the settings.
///
/// # Errors
/// [`InstallError`] with every way that was tried.
pub fn install(config: &Config) -> Result<Installed, InstallError> {
    if cfg!(target_feature = "crt-static") {
        return Err(InstallError::Static);
    }
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(installed) = *installed {
        return Ok(installed);
    }
    let mut attempts = Vec::new();
    for method in [Method::Memory, Method::TemporaryFile, Method::BesideExecutable] {
        match open(method) {
            Ok(library) => match library.bind() {
                Ok(()) => {
                    driver::configure(config);
                    return Ok(*installed.insert(Installed { method }));
                }
                Err((step, error)) => attempts.push(Attempt { method, step, error }),
            },
            Err((step, error)) => attempts.push(Attempt { method, step, error }),
        }
    }
    Err(InstallError::Refused(attempts))
}

/// What was refused, and why.
type Refusal = (String, String);

/// A loaded library; never closed.
struct Library(*mut c_void);

impl Library {
    fn load(path: &Path) -> Result<Self, Refusal> {
        let step = || format!("dlopen {}", path.display());
        let name = CString::new(path.as_os_str().as_bytes())
            .map_err(|error| (step(), error.to_string()))?;
        // SAFETY: the shim has no initialisers; a `libsoftcuda.so` beside the executable is ours.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() { Err((step(), loader_error())) } else { Ok(Self(handle)) }
    }

    fn symbol(&self, name: &CStr) -> Option<*mut c_void> {
        // SAFETY: the handle is that of a library that is never closed.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        (!address.is_null()).then_some(address)
    }

    /// Gives the shim the addresses of our functions.
    fn bind(&self) -> Result<(), Refusal> {
        let bind =
            self.symbol(c"softcuda_bind").ok_or_else(|| ("dlsym".to_owned(), loader_error()))?;
        // SAFETY: the symbol is the shim's binder, whose type this is.
        let bind: unsafe extern "C" fn(*const *const c_void) = unsafe { std::mem::transmute(bind) };
        // SAFETY: the table has as many entries as the shim copies: both come from api.txt.
        unsafe { bind(driver::TABLE.as_ptr()) };
        Ok(())
    }
}

fn open(method: Method) -> Result<Library, Refusal> {
    match method {
        Method::Memory => open_memory(),
        Method::TemporaryFile => open_temporary(),
        Method::BesideExecutable => open_beside(),
    }
}

fn open_memory() -> Result<Library, Refusal> {
    let create = |flags| {
        // SAFETY: the name is a C string; the call takes nothing else from this process.
        let file = unsafe { libc::memfd_create(c"softcuda".as_ptr(), flags) };
        if file < 0 { Err(io::Error::last_os_error()) } else { Ok(file) }
    };
    let file = match create(libc::MFD_CLOEXEC | libc::MFD_EXEC) {
        // Kernels before 6.3 do not know MFD_EXEC.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => create(libc::MFD_CLOEXEC),
        other => other,
    }
    .map_err(|error| ("memfd_create".to_owned(), error.to_string()))?;
    // SAFETY: the descriptor is fresh and belongs to nobody else.
    let mut file = unsafe { std::fs::File::from_raw_fd(file) };
    file.write_all(SHIM).map_err(|error| ("write".to_owned(), error.to_string()))?;
    Library::load(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))
}

/// Folders for a temporary library, best first.
fn folders() -> Vec<PathBuf> {
    #[expect(
        clippy::disallowed_methods,
        reason = "where the system keeps temporary files is no setting of ours"
    )]
    let named =
        ["XDG_RUNTIME_DIR", "TMPDIR"].into_iter().filter_map(|name| std::env::var(name).ok());
    named.map(PathBuf::from).chain([PathBuf::from("/tmp")]).collect()
}

fn open_temporary() -> Result<Library, Refusal> {
    let mut refusal = ("find a folder".to_owned(), "none".to_owned());
    for parent in folders() {
        match open_temporary_in(&parent) {
            Ok(library) => return Ok(library),
            Err(refused) => refusal = refused,
        }
    }
    Err(refusal)
}

fn open_temporary_in(parent: &Path) -> Result<Library, Refusal> {
    let folder = (0..100)
        .map(|number| parent.join(format!("softcuda-{}-{number}", std::process::id())))
        .find(|folder| std::fs::DirBuilder::new().mode(0o700).create(folder).is_ok())
        .ok_or_else(|| (format!("make a folder in {}", parent.display()), "refused".to_owned()))?;
    let file = folder.join("libcuda.so");
    let result = std::fs::write(&file, SHIM)
        .map_err(|error| (format!("write {}", file.display()), error.to_string()))
        .and_then(|()| Library::load(&file));
    let removed = std::fs::remove_dir_all(&folder);
    let library = result?;
    removed.map_err(|error| (format!("remove {}", folder.display()), error.to_string()))?;
    Ok(library)
}

fn open_beside() -> Result<Library, Refusal> {
    let executable = std::env::current_exe()
        .map_err(|error| ("find the executable".to_owned(), error.to_string()))?;
    Library::load(&executable.with_file_name("libsoftcuda.so"))
}

/// The loader's last message.
fn loader_error() -> String {
    // SAFETY: returns null or a string that lives until the next call of this thread.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "no reason given".to_owned();
    }
    // SAFETY: as above; copied at once.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_list_is_exported() {
        let library = open(Method::Memory).expect("memfd works here");
        assert_eq!(driver::NAMES.len(), 445);
        for name in driver::NAMES {
            assert!(library.symbol(name).is_some(), "{name:?}");
        }
        let mut names: Vec<_> = driver::NAMES.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 445, "a name is there twice");
        assert!(library.symbol(c"cuNoSuchThing").is_none());
    }

    /// What is used when `memfd_create` or /proc is refused.
    #[test]
    fn temporary_file_is_loaded_bound_and_removed() {
        let parent = std::env::temp_dir().join(format!("softcuda-test-{}", std::process::id()));
        std::fs::create_dir_all(&parent).unwrap();
        let library = open_temporary_in(&parent).expect("the folder is writable");
        library.bind().expect("the shim has a binder");
        assert_eq!(std::fs::read_dir(&parent).unwrap().count(), 0, "left behind");
        std::fs::remove_dir(&parent).unwrap();
        let version = library.symbol(c"cuDriverGetVersion").expect("is exported");
        // SAFETY: the entry point has this type.
        let version: unsafe extern "C" fn(*mut i32) -> i32 =
            unsafe { std::mem::transmute(version) };
        let mut found = 0;
        // SAFETY: the pointer is that of a live i32.
        assert_eq!(unsafe { version(&raw mut found) }, 0);
        assert_eq!(found, 13_000);
    }

    #[test]
    fn refused_ways_are_listed() {
        let (step, error) =
            open_temporary_in(Path::new("/proc")).err().expect("/proc takes no folders");
        assert!(step.contains("/proc"), "{step}: {error}");
        let (step, _) = open_beside().err().expect("no such library beside the tests");
        assert!(step.contains("libsoftcuda.so"), "{step}");
        let attempts = vec![Attempt { method: Method::Memory, step, error }];
        assert!(InstallError::Refused(attempts).to_string().contains("Memory: dlopen"));
    }
}
