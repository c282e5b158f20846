//! The program that reads containers, played by a stand-in that hangs, floods, crashes and lies.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use qwen2vl::media::{Ffmpeg, Limits, MediaError, Size, Source, Video, VideoReader, VideoSource};

/// Enough of an mp4 to be taken for one.
const CONTAINER: &[u8] = b"\0\0\0\x18ftypisom\0\0\0\0";

/// A stand-in of a name, and a file for it to read.
struct Scene {
    folder: tempfile::TempDir,
    program: PathBuf,
    file: PathBuf,
}

impl Scene {
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/stand_in.sh");
        let (program, file) = (folder.path().join(name), folder.path().join("clip.mp4"));
        symlink(script, &program).unwrap();
        fs::write(&file, CONTAINER).unwrap();
        Self { folder, program, file }
    }

    fn reader(&self, limits: Limits) -> VideoReader {
        let ffmpeg = Ffmpeg { program: self.program.clone() };
        VideoReader { ffmpeg, limits, ..VideoReader::default() }
    }

    fn open(&self, limits: Limits) -> Result<Video, MediaError> {
        let source = VideoSource::File(Source::Path(self.file.clone()));
        Video::open(&source, &self.reader(limits))
    }

    /// Opens, and reads every frame that the headers promise.
    fn read(&self, limits: Limits) -> Result<usize, MediaError> {
        let video = self.open(limits)?;
        let indices: Vec<usize> = (0..video.frames()).collect();
        let mut seen = 0;
        video.read(&indices, &mut |_| {
            seen += 1;
            Ok(())
        })?;
        Ok(seen)
    }

    /// Processes that still run and have this scene's folder among their arguments.
    fn survivors(&self) -> Vec<String> {
        let own = self.folder.path().display().to_string();
        let processes = fs::read_dir("/proc").unwrap().map_while(Result::ok);
        let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
        let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
        lines.filter(|line| line.contains(&own)).collect()
    }
}

fn short() -> Limits {
    Limits { video_seconds: 1, ..Limits::default() }
}

#[test]
fn a_good_program_gives_its_frames() {
    let scene = Scene::new("good");
    let video = scene.open(Limits::default()).unwrap();
    let size = Size { height: 2, width: 4 };
    assert_eq!((video.frames(), video.size(), video.fps()), (8, size, Some(2.0)));
    assert_eq!(scene.read(Limits::default()).unwrap(), 8);
    let bytes = VideoSource::File(Source::Bytes(CONTAINER.to_vec()));
    let held = Video::open(&bytes, &scene.reader(Limits::default())).unwrap();
    assert_eq!(held.frames(), 8, "bytes in memory are a file to the program");
}

#[test]
fn a_program_that_hangs_is_ended_with_all_that_it_started() {
    for name in ["hangs", "hangs-in-frames"] {
        let scene = Scene::new(name);
        let error = scene.read(short()).unwrap_err();
        assert!(matches!(error, MediaError::VideoTimeout { seconds: 1 }), "{name}: {error:?}");
        assert_eq!(scene.survivors(), [""; 0], "{name}");
    }
}

#[test]
fn a_flood_is_cut_off() {
    for name in ["floods", "floods-lines", "floods-frames", "floods-header"] {
        let scene = Scene::new(name);
        let limits = Limits { frames_read: 10_000, pixels: 1 << 20, ..Limits::default() };
        let error = scene.read(limits).unwrap_err();
        let expected = match name {
            "floods" => matches!(error, MediaError::Limit { got: 10_001, .. }),
            _ => matches!(error, MediaError::VideoStream { .. }),
        };
        assert!(expected, "{name}: {error:?}");
        assert_eq!(scene.survivors(), [""; 0], "{name}");
    }
}

#[test]
fn complaints_without_end_are_dropped() {
    assert_eq!(Scene::new("complains").read(Limits::default()).unwrap(), 8);
}

#[test]
fn a_failure_is_told_in_the_words_of_the_program() {
    let error = Scene::new("fails").read(Limits::default()).unwrap_err().to_string();
    assert_eq!(error, "ffmpeg cannot read the video: moov atom not found");
    let error = Scene::new("crashes").read(Limits::default()).unwrap_err().to_string();
    assert!(error.contains("signal"), "{error}");
    let error = Scene::new("cuts").read(Limits::default()).unwrap_err();
    assert!(matches!(error, MediaError::VideoStream { .. }), "{error:?}");
    let error = Scene::new("answers-nothing").read(Limits::default()).unwrap_err();
    assert!(matches!(error, MediaError::FrameMissing { frame: 0 }), "{error:?}");
}

#[test]
fn a_header_that_lies_takes_no_memory() {
    let error = Scene::new("lies-about-frames").read(Limits::default()).unwrap_err();
    assert!(matches!(error, MediaError::FrameSize { .. }), "{error:?}");
    let error = Scene::new("lies-about-size").read(Limits::default()).unwrap_err();
    assert!(matches!(error, MediaError::Limit { .. }), "{error:?}");
    let limits = Limits { pixels: 100_000, ..Limits::default() };
    let error = Scene::new("lies-about-size-a-little").read(limits).unwrap_err();
    assert!(matches!(error, MediaError::Limit { .. }), "{error:?}");
}

#[test]
fn frames_that_are_promised_and_not_there_are_counted_again() {
    let scene = Scene::new("lies-about-number");
    let mut video = scene.open(Limits::default()).unwrap();
    assert_eq!(video.frames(), 12);
    let all: Vec<usize> = (0..12).collect();
    let error = video.read(&all, &mut |_| Ok(())).unwrap_err();
    assert!(matches!(error, MediaError::FrameMissing { frame: 8 }), "{error:?}");
    assert!(video.recount().unwrap());
    assert_eq!(video.frames(), 8);
    assert!(!video.recount().unwrap());
}

#[test]
fn a_program_gets_no_more_memory_than_allowed_and_writes_no_file() {
    let limits = Limits { video_memory: 256 << 20, ..Limits::default() };
    let error = Scene::new("hoards").read(limits).unwrap_err();
    assert!(matches!(error, MediaError::Ffmpeg { .. }), "{error:?}");
    let scene = Scene::new("writes");
    assert!(scene.read(Limits::default()).is_err());
    let written = scene.folder.path().join("writes.written");
    assert!(fs::read(written).is_ok_and(|bytes| bytes.is_empty()), "opened, and nothing in it");
}

#[test]
fn what_is_no_regular_file_or_too_large_never_reaches_the_program() {
    let scene = Scene::new("good");
    let limits = Limits { video_bytes: 4, ..Limits::default() };
    assert!(matches!(scene.open(limits), Err(MediaError::Limit { .. })));
    fs::write(&scene.file, b"#EXTM3U\nhttp://example.com/a.ts\n").unwrap();
    let error = scene.open(Limits::default()).unwrap_err();
    assert!(matches!(error, MediaError::UnknownFormat { .. }), "a playlist: {error:?}");
}

#[test]
fn the_command_line_names_a_missing_program_and_takes_a_time_limit() {
    let scene = Scene::new("hangs");
    let run = |program: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qwen2vl"));
        command.arg("frames").arg(&scene.file).args(["--video-timeout", "1"]);
        command.env("QWEN2VL_FFMPEG", program).output().unwrap()
    };
    let started = std::time::SystemTime::now();
    let late = run(&scene.program);
    assert_eq!(late.status.code(), Some(3));
    let message = String::from_utf8_lossy(&late.stderr).into_owned();
    assert!(
        message.contains("error[limit_exceeded]: ffmpeg takes more than 1 seconds"),
        "{message}"
    );
    assert!(started.elapsed().unwrap() < Duration::from_secs(60));
    let missing = run(Path::new("/no/such/program"));
    assert_eq!(missing.status.code(), Some(2));
    let message = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(message.contains("error[unsupported]: cannot start /no/such/program"), "{message}");
}
