//! Animated GIF, WebP and PNG: number of frames, their times, and the pixels that Pillow shows.

use std::{fs, path::Path};

use qwen2vl::media::{Source, Video, VideoReader, VideoSource};

use crate::sha256::sha256;

#[test]
fn frames_of_animations_are_pillows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let digests = fs::read_to_string(root.join("tests/data/animations/digests.txt")).unwrap();
    let (mut files, mut wrong) = (0, Vec::new());
    for line in digests.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split(' ').collect();
        let name = fields[0];
        // Pillow counts a picture that is no part of the animation; the standard does not.
        let apart = usize::from(name == "default-apart.png");
        let digests = &fields[5 + apart..];
        let path = root.join("fuzz/corpus/animation").join(name);
        let source = VideoSource::File(Source::Path(path));
        let video = Video::open(&source, &VideoReader::default()).unwrap();
        assert_eq!(video.frames(), digests.len(), "{name}");
        let size = video.size();
        assert_eq!((fields[2], fields[3]), (&*size.height.to_string(), &*size.width.to_string()));
        let milliseconds: f64 = fields[4].parse().unwrap();
        let fps = video.fps().unwrap();
        assert!((digests.len() as f64 / fps - milliseconds / 1000.0).abs() < 1e-9, "{name}: {fps}");
        let all: Vec<usize> = (0..video.frames()).collect();
        let mut frames = Vec::new();
        let keep = &mut |frame: &qwen2vl::media::Rgb8| {
            frames.push(frame.clone());
            Ok(())
        };
        video.read(&all, keep).unwrap();
        for (index, (frame, digest)) in frames.iter().zip(digests).enumerate() {
            // Pillow multiplies by alpha where the standard of PNG does not.
            let blended = name == "blend.png" && index > 0;
            if !blended && sha256(frame.data()) != *digest {
                wrong.push(format!("{name} {index}"));
            }
        }
        // A choice of frames is these frames.
        let mut chosen = Vec::new();
        let last = video.frames() - 1;
        video
            .read(&[0, last, last], &mut |frame| {
                chosen.push(frame.clone());
                Ok(())
            })
            .unwrap();
        assert_eq!(chosen, [&frames[0], &frames[last], &frames[last]].map(Clone::clone), "{name}");
        files += 1;
    }
    println!("animations: {files} files");
    assert_eq!(files, 8);
    assert_eq!(wrong, [""; 0], "pixels differ from Pillow's");
}
