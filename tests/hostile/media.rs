//! Broken pictures, each made from a good one: a typed error, never a panic, never much memory.

use std::{fs, path::PathBuf};

use qwen2vl::media::{self, Limits, MediaError, Size};

use crate::{
    program::{self, INPUT, USAGE},
    support::Rng,
};

/// One of each format.
const PICTURES: &[&str] = &[
    "rgb-up.png",
    "palette-2bit.png",
    "gray-16.png",
    "420.jpg",
    "progressive.jpg",
    "cmyk.jpg",
    "restart.jpg",
    "lossless.webp",
    "lossy.webp",
    "plain.gif",
    "animated.gif",
    "rgb.bmp",
    "palette.bmp",
];

fn picture(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/goldens/pixels/media");
    fs::read(folder.join(name)).unwrap()
}

fn decode(bytes: &[u8]) -> Result<Size, MediaError> {
    media::decode(bytes, &Limits::default()).map(|picture| picture.size())
}

#[test]
fn a_truncated_picture_is_an_error() {
    for name in PICTURES {
        let whole = picture(name);
        let size = decode(&whole).unwrap();
        for part in 0..16 {
            let cut = &whole[..whole.len() * part / 16];
            match decode(cut) {
                Err(_) => {}
                // An animation is whole once its first frame is.
                Ok(got) => assert!(*name == "animated.gif" && got == size, "{name}, {part}/16"),
            }
        }
    }
}

#[test]
fn a_picture_with_flipped_bytes_is_a_picture_or_an_error() {
    for name in PICTURES {
        let whole = picture(name);
        let mut rng = Rng::new(name);
        for _ in 0..200 {
            let mut broken = whole.clone();
            for _ in 0..1 + rng.below(4) {
                let at = rng.below(broken.len());
                broken[at] = rng.next().to_le_bytes()[0];
            }
            // Limits keep a flipped size from costing memory or time.
            let limits = Limits { pixels: 1 << 20, ..Limits::default() };
            drop(media::probe(&broken, &limits));
            if let Ok(picture) = media::decode(&broken, &limits) {
                let size = picture.size();
                assert_eq!(picture.data().len(), size.height * size.width * 3, "{name}");
            }
        }
    }
}

/// A header of a picture of 60,000 x 60,000, and nothing else.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    const SIDE: u16 = 60_000;
    let wide = u32::from(SIDE).to_be_bytes();
    let mut png = picture("rgb-up.png");
    png.splice(16..24, [wide, wide].concat());
    let crc = crc32(&png[12..29]).to_be_bytes();
    png.splice(29..33, crc);
    let mut jpeg = picture("444.jpg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    jpeg.splice(frame + 5..frame + 9, [SIDE.to_be_bytes(), SIDE.to_be_bytes()].concat());
    let mut gif = picture("plain.gif");
    gif.splice(6..10, [SIDE.to_le_bytes(), SIDE.to_le_bytes()].concat());
    let mut bmp = picture("rgb.bmp");
    let long = u32::from(SIDE).to_le_bytes();
    bmp.splice(18..26, [long, long].concat());
    vec![("PNG", png), ("JPEG", jpeg), ("GIF", gif), ("BMP", bmp)]
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}

#[test]
fn an_absurd_size_is_refused_before_a_pixel_is_allocated() {
    for (format, bytes) in bombs() {
        let error = decode(&bytes).unwrap_err();
        let limit = matches!(error, MediaError::Limit { got: 3_600_000_000, max: 178_956_970, .. });
        assert!(limit, "{format}: {error:?}");
        assert!(matches!(media::probe(&bytes, &Limits::default()), Err(MediaError::Limit { .. })));
    }
}

#[test]
fn what_stands_beside_the_picture_costs_nothing() {
    // A colour profile of 100 MB that is 100 kB in the file.
    let mut png = Vec::new();
    let mut encoder = image::codecs::png::PngEncoder::new(&mut png);
    image::ImageEncoder::set_icc_profile(&mut encoder, vec![0; 100 << 20]).unwrap();
    image::ImageEncoder::write_image(encoder, &[9; 12], 2, 2, image::ExtendedColorType::Rgb8)
        .unwrap();
    assert!(png.len() < 1 << 20);
    assert_eq!(decode(&png).unwrap(), Size { height: 2, width: 2 });
    // EXIF of 4 GB that is not there.
    let mut webp = picture("exif-8.webp");
    let turned = decode(&webp).unwrap();
    let at = webp.windows(4).position(|kind| kind == b"EXIF").unwrap();
    webp[at + 4..at + 8].fill(0xff);
    let plain = decode(&webp).unwrap();
    assert_eq!((plain.height, plain.width), (turned.width, turned.height));
}

#[test]
fn each_limit_holds_at_its_value_and_not_one_above() {
    let bytes = picture("rgb-up.png");
    let size = decode(&bytes).unwrap();
    let (pixels, side) = (size.pixels().unwrap() as u64, size.height.max(size.width) as u64);
    let exact = Limits {
        encoded_bytes: bytes.len() as u64,
        pixels,
        side,
        jpeg_scans: 1,
        ..Limits::default()
    };
    assert_eq!(media::decode(&bytes, &exact).unwrap().size(), size);
    for below in [
        Limits { encoded_bytes: exact.encoded_bytes - 1, ..exact },
        Limits { pixels: pixels - 1, ..exact },
        Limits { side: side - 1, ..exact },
    ] {
        let error = media::decode(&bytes, &below).unwrap_err();
        assert!(matches!(error, MediaError::Limit { .. }), "{below:?}: {error:?}");
    }
    let scans = Limits { jpeg_scans: 3, ..Limits::default() };
    let error = media::decode(&picture("progressive.jpg"), &scans).unwrap_err();
    assert!(matches!(error, MediaError::Limit { max: 3, .. }), "{error:?}");
}

/// (content, exit status, what the message names)
fn files() -> Vec<(Vec<u8>, u8, &'static str)> {
    let mut files = vec![
        (Vec::new(), INPUT, "unknown picture format: 0 bytes"),
        (b"not a picture".to_vec(), INPUT, "unknown picture format: 13 bytes"),
        (b"II*\0and so on".to_vec(), USAGE, "unsupported TIFF"),
        (picture("420.jpg")[..900].to_vec(), INPUT, "cannot decode JPEG"),
        (picture("rgb-up.png")[..600].to_vec(), INPUT, "cannot decode PNG"),
        (picture("strip.png"), INPUT, "absolute aspect ratio must be smaller than 200"),
    ];
    for (_, bomb) in bombs() {
        files.push((bomb, INPUT, "decoded picture in pixels: 3600000000 is over the limit"));
    }
    files
}

#[test]
fn the_program_names_the_part_and_the_reason() {
    let demo = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("assets/demo/model");
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let messages = r#"[{"role": "user", "content": [
        {"type": "text", "text": "What?"}, {"type": "image", "path": "picture"}]}]"#;
    fs::write(path("m.json"), messages).unwrap();
    let output = path("out.safetensors");
    let arguments = ["process", "--messages", &path("m.json"), "--output", &output];
    let missing = program::run(&arguments, &demo);
    missing.assert_status(INPUT);
    assert!(missing.said().contains("message 0, part 1: cannot read"), "{}", missing.said());
    for (content, status, reason) in files() {
        fs::write(path("picture"), content).unwrap();
        let done = program::run(&arguments, &demo);
        done.assert_status(status);
        let said = done.said();
        assert!(said.contains("message 0, part 1: ") && said.contains(reason), "{reason}: {said}");
        assert!(!fs::exists(&output).unwrap(), "{reason}: nothing is written");
    }
}
